/* Saves that lose their power at a random byte, and what comes up after them; prints how often the old, the new, or anything else. */
#include <stdio.h>
#include <string.h>

#include "board.h"
#include "lfwd_store.h"

extern void initialise_monitor_handles(void);

void board_init(void)
{
    initialise_monitor_handles();
}

static uint8_t slots[2][LFWD_SLOT_BYTES], old[LFWD_STATE_BYTES], fresh[LFWD_STATE_BYTES], now[LFWD_STATE_BYTES];
static uint32_t left, seed = 1;

static uint32_t draw(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static int read_slot(void *context, int slot, uint32_t at, uint8_t *bytes, uint32_t count)
{
    (void)context;
    memcpy(bytes, slots[slot] + at, count);
    return 0;
}

/* One unit of power per byte, erased or written. */
static int write_slot(void *context, int slot, uint32_t at, const uint8_t *bytes, uint32_t count)
{
    (void)context;
    for (uint32_t i = 0; at == 0 && i < LFWD_SLOT_BYTES; i++, left--) {
        if (left == 0) return 1;
        slots[slot][i] = 0xff;
    }
    for (uint32_t i = 0; i < count; i++, left--) {
        if (left == 0) return 1;
        slots[slot][at + i] = bytes[i];
    }
    return 0;
}

static const lfwd_flash flash = {read_slot, write_slot, 0};

static void copy_state(uint8_t *to)
{
    for (uint32_t r = 0; r < LFWD_STATE_REGIONS; to += lfwd_state[r].count, r++) memcpy(to, lfwd_state[r].bytes, lfwd_state[r].count);
}

static void scramble_state(void)
{
    for (uint32_t r = 0; r < LFWD_STATE_REGIONS; r++)
        for (uint32_t i = 0; i < lfwd_state[r].count; i++) lfwd_state[r].bytes[i] = (uint8_t)draw();
}

int main(void)
{
    int was_old = 0, was_new = 0, was_other = 0;
    memset(slots, 0xff, sizeof slots);
    lfwd_init();
    copy_state(old);
    for (int trial = 0; trial < 200; trial++) {
        scramble_state();
        copy_state(fresh);
        left = draw() % (4u * LFWD_SLOT_BYTES); /* half of the saves have power enough */
        const lfwd_stored saved = lfwd_save(&flash);
        memset(now, 0, sizeof now);
        lfwd_init(); /* the power is back */
        (void)lfwd_load(&flash);
        copy_state(now);
        if (memcmp(now, fresh, sizeof now) == 0) {
            was_new++;
            memcpy(old, fresh, sizeof old);
        } else if (memcmp(now, old, sizeof now) == 0 && saved != LFWD_STORED) {
            was_old++;
        } else {
            was_other++;
        }
    }
    printf("old %d new %d other %d\n", was_old, was_new, was_other);
    return 0;
}

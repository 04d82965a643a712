/* SPDX-License-Identifier: Apache-2.0
 *
 * What was learned, kept over a reset; lfwd_store.h says how. No second copy of the state is ever made: it goes through one piece. */
#include "lfwd_store.h"

#include <string.h>

typedef struct {
    lfwd_stored result;
    uint32_t number;
} slot_report;

static uint32_t crc32(uint32_t crc, const uint8_t *bytes, uint32_t count)
{
    static const uint32_t of_four_bits[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    crc = ~crc;
    for (uint32_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ of_four_bits[crc & 15u];
        crc = (crc >> 4) ^ of_four_bits[crc & 15u];
    }
    return ~crc;
}

static void put_u32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *from)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value |= (uint32_t)from[i] << (8 * i);
    return value;
}

/* ---- reading */

static lfwd_stored judge_header(const uint8_t header[LFWD_STORE_HEADER_BYTES])
{
    int erased = 1;
    for (int i = 1; i < 4; i++) erased = erased && header[i] == header[0];
    if (erased) return LFWD_NOTHING_STORED;
    if (memcmp(header, "LFWD", 4) != 0) return LFWD_DAMAGED;
    if (get_u32(header + 4) != LFWD_STORE_VERSION) return LFWD_OTHER_VERSION;
    if (get_u32(header + 8) != LFWD_MODEL_HASH) return LFWD_OTHER_MODEL;
    return get_u32(header + 16) == LFWD_STATE_BYTES && get_u32(header + 20) == LFWD_WEIGHTS_BYTES ? LFWD_STORED : LFWD_DAMAGED;
}

/* Read a slot from end to end and say whether it is whole; with `take`, its state goes where it belongs. */
static slot_report read_slot(const lfwd_flash *flash, int slot, int take)
{
    uint8_t piece[LFWD_PIECE_BYTES], header[LFWD_STORE_HEADER_BYTES];
    slot_report report = {LFWD_READ_FAILED, 0};
    if (flash->read(flash->context, slot, 0, header, sizeof header) != 0) return report;
    report.result = judge_header(header);
    if (report.result != LFWD_STORED) return report;
    report.number = get_u32(header + 12);
    uint32_t crc = crc32(0, header, sizeof header), at = sizeof header;
    for (uint32_t r = 0; r < LFWD_STATE_REGIONS; r++)
        for (uint32_t done = 0, count; done < lfwd_state[r].count; done += count, at += count) {
            count = lfwd_state[r].count - done;
            if (count > sizeof piece) count = sizeof piece;
            if (flash->read(flash->context, slot, at, piece, count) != 0) {
                report.result = LFWD_READ_FAILED;
                return report;
            }
            crc = crc32(crc, piece, count);
            if (take) memcpy(lfwd_state[r].bytes + done, piece, count);
        }
    if (flash->read(flash->context, slot, at, piece, 4) != 0)
        report.result = LFWD_READ_FAILED;
    else if (get_u32(piece) != crc)
        report.result = LFWD_DAMAGED;
    return report;
}

/* The slot with the newest whole state of this model, or -1; `why` not, and the `number` of its save (0: none). */
static int newest(const lfwd_flash *flash, lfwd_stored *why, uint32_t *number)
{
    int found = -1;
    *why = LFWD_NOTHING_STORED;
    *number = 0;
    for (int slot = 0; slot < 2; slot++) {
        const slot_report report = read_slot(flash, slot, 0);
        if (report.result == LFWD_STORED && (found < 0 || (int32_t)(report.number - *number) > 0)) {
            found = slot;
            *number = report.number;
        } else if (report.result > *why) {
            *why = report.result;
        }
    }
    if (found >= 0) *why = LFWD_STORED;
    return found;
}

lfwd_stored lfwd_load(const lfwd_flash *flash)
{
    lfwd_stored why;
    uint32_t number;
    const int slot = newest(flash, &why, &number);
    if (slot < 0) return why;
    const slot_report taken = read_slot(flash, slot, 1);
    if (taken.result != LFWD_STORED) lfwd_init();
    return taken.result;
}

/* ---- writing */

typedef struct {
    const lfwd_flash *flash;
    int slot, failed;
    uint32_t at, filled;
    uint8_t piece[LFWD_PIECE_BYTES];
} slot_writer;

static void write_bytes(slot_writer *to, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count && !to->failed; i++) {
        to->piece[to->filled++] = bytes[i];
        if (to->filled < sizeof to->piece) continue;
        to->failed = to->flash->write(to->flash->context, to->slot, to->at, to->piece, sizeof to->piece) != 0;
        to->at += (uint32_t)sizeof to->piece;
        to->filled = 0;
    }
}

lfwd_stored lfwd_save(const lfwd_flash *flash)
{
    static const uint8_t erased = 0xff;
    uint8_t header[LFWD_STORE_HEADER_BYTES] = {'L', 'F', 'W', 'D'}, end[4];
    lfwd_stored why;
    uint32_t number;
    const int last = newest(flash, &why, &number);
    slot_writer to = {flash, last == 0 ? 1 : 0, 0, 0, 0, {0}};
    put_u32(header + 4, LFWD_STORE_VERSION);
    put_u32(header + 8, LFWD_MODEL_HASH);
    put_u32(header + 12, number + 1u);
    put_u32(header + 16, LFWD_STATE_BYTES);
    put_u32(header + 20, LFWD_WEIGHTS_BYTES);
    uint32_t crc = crc32(0, header, sizeof header);
    write_bytes(&to, header, sizeof header);
    for (uint32_t r = 0; r < LFWD_STATE_REGIONS; r++) {
        crc = crc32(crc, lfwd_state[r].bytes, lfwd_state[r].count);
        write_bytes(&to, lfwd_state[r].bytes, lfwd_state[r].count);
    }
    put_u32(end, crc);
    write_bytes(&to, end, sizeof end);
    while (to.filled != 0 && !to.failed) write_bytes(&to, &erased, 1);
    if (to.failed) return LFWD_WRITE_FAILED;
    const slot_report back = read_slot(flash, to.slot, 0);
    return back.result == LFWD_STORED && back.number == number + 1u ? LFWD_STORED : LFWD_WRITE_FAILED;
}

const char *lfwd_why(lfwd_stored result)
{
    switch (result) {
    case LFWD_STORED: return "stored";
    case LFWD_NOTHING_STORED: return "nothing is stored yet";
    case LFWD_DAMAGED: return "what is stored is damaged, or its save was cut off";
    case LFWD_OTHER_MODEL: return "what is stored belongs to another model, or to other frozen weights";
    case LFWD_OTHER_VERSION: return "what is stored has another version of the format";
    case LFWD_READ_FAILED: return "reading failed";
    case LFWD_WRITE_FAILED: return "writing failed";
    }
    return "unknown result";
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * An adaptation on the device; lfwd_adapt.h says how. Line by line what lightning_fwd.adaptation.firmware does on the host. */
#include "lfwd_adapt.h"

#include <string.h>

#include "lfwd_random.h"
#ifdef LFWD_INTEGER
#include "lfwd_judge_integer.h"
#elif defined LFWD_RECONSTRUCTS
#include "lfwd_judge_reconstruction.h"
#else
#include "lfwd_judge_float.h"
#endif

#define BITS ((LFWD_SAMPLES + 7) / 8)

/* ---- what a step and a prediction read */

static lfwd_value gathered[LFWD_MOST_BATCH][LFWD_INPUT] LFWD_ADAPT_RAM;

/* ---- who judges */

static uint8_t held[BITS], right[BITS]; /* a bit for each slot */

static int bit(const uint8_t *bits, uint32_t i)
{
    return bits[i >> 3] >> (i & 7u) & 1;
}

static void set_bit(uint8_t *bits, uint32_t i)
{
    bits[i >> 3] = (uint8_t)(bits[i >> 3] | 1u << (i & 7u));
}

/* Of each class every so manieth sample of a drawn order is held back. */
static void hold_back(uint32_t seed, uint32_t share)
{
    const uint32_t draws = lfwd_draws_of(seed, 1), samples = lfwd_samples_count();
    const uint64_t offset = lfwd_hash32(draws + samples) >> 16;
    memset(held, 0, sizeof held);
    for (uint32_t i = 0; i < samples; i++) {
        const uint32_t key = lfwd_hash32(draws + i);
        const int32_t label = lfwd_samples_label(i);
        uint64_t place = 0;
        if (label == LFWD_UNLABELLED) continue;
        for (uint32_t j = 0; j < samples; j++) {
            const int32_t another = lfwd_samples_label(j);
            if (another == LFWD_UNLABELLED || another > label) continue;
            const uint32_t other = lfwd_hash32(draws + j);
            if (another < label || other < key || (other == key && j < i)) place++;
        }
        if (((place + 1u) * share + offset) >> 16 > (place * share + offset) >> 16) set_bit(held, i);
    }
}

typedef enum { BY_HELD, BY_LABELLED, BY_ALL } judges;

static int in_judges(judges who, uint32_t slot)
{
    return who == BY_ALL || (lfwd_samples_label(slot) != LFWD_UNLABELLED && (who == BY_LABELLED || bit(held, slot)));
}

static uint16_t count_judges(judges who)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < lfwd_samples_count(); slot++) count += (uint32_t)in_judges(who, slot);
    return (uint16_t)count;
}

typedef struct {
    lfwd_total loss;
    uint16_t lost, won;
} verdict;

/* The network as it is now; `first`: before the stage, against which the others are held. */
static verdict judge(judges who, uint16_t count, int first)
{
    verdict now = {0, 0, 0};
    lfwd_total sums[SCALES] = {0};
    for (uint32_t slot = 0; slot < lfwd_samples_count(); slot++) {
        if (!in_judges(who, slot)) continue;
        lfwd_samples_get(slot, gathered[0]);
        const int32_t label = lfwd_samples_label(slot);
        const int is_right = predict(gathered[0], who == BY_ALL ? LFWD_UNLABELLED : label, sums) == label;
        if (first && is_right) set_bit(right, slot);
        if (!first && is_right != bit(right, slot)) {
            if (is_right)
                now.won++;
            else
                now.lost++;
        }
        LFWD_BETWEEN_STEPS();
    }
    now.loss = sums[0];
    for (int k = 1; k < SCALES && who != BY_ALL; k++)
        if (sums[k] < now.loss) now.loss = sums[k];
    now.loss = total_of(now.loss, count);
    return now;
}

static int harms(verdict now, lfwd_total before)
{
    const uint32_t differ = (uint32_t)now.lost + now.won, more = now.lost > now.won ? (uint32_t)now.lost - now.won : 0u;
    return !(now.loss < before) || (uint64_t)more * more > differ;
}

/* ---- what a stage changes, kept */

static uint8_t undo[LFWD_UNDO_BYTES] LFWD_ADAPT_RAM;

static void copy_weights(const lfwd_stage *stage, int back)
{
    uint8_t *at = undo;
    for (uint32_t r = 0; r < stage->changes_count; at += stage->changes[r].count, r++) {
        if (back)
            memcpy(stage->changes[r].bytes, at, stage->changes[r].count);
        else
            memcpy(at, stage->changes[r].bytes, stage->changes[r].count);
    }
}

static void set_initial(const lfwd_own *own)
{
    if (own->initial)
        memcpy(own->bytes, own->initial, own->count);
    else
        memset(own->bytes, 0, own->count);
}

static void begin(const lfwd_stage *stage)
{
    for (uint32_t r = 0; r < stage->own_count; r++) set_initial(&stage->own[r]);
}

/* Whether a stage of this adaptation that was kept has changed it. */
static int is_changed(const uint8_t *bytes, const lfwd_stage_report *before, uint32_t stages)
{
    for (uint32_t number = 0; number < stages; number++) {
        const lfwd_stage *stage = &lfwd_stages[number];
        for (uint32_t r = 0; before[number].outcome <= LFWD_KEPT_UNGUARDED && r < stage->changes_count; r++)
            if (bytes >= stage->changes[r].bytes && bytes < stage->changes[r].bytes + stage->changes[r].count) return 1;
    }
    return 0;
}

/* What rounds compare with was measured on the weights as shipped: adapting again is no second map. */
static void begin_as_shipped(const lfwd_stage *stage, const lfwd_stage_report *before)
{
    const uint32_t number = (uint32_t)(stage - lfwd_stages);
    for (uint32_t r = 0; r < stage->shipped_count; r++)
        if (!is_changed(stage->shipped[r].bytes, before, number)) set_initial(&stage->shipped[r]);
}

/* ---- the loop */

static uint16_t order[LFWD_SAMPLES] LFWD_ADAPT_RAM;

/* The slots that a stage learns from. */
static uint32_t fill_order(const lfwd_stage *stage)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < lfwd_samples_count(); slot++)
        if (!stage->learns || (lfwd_samples_label(slot) != LFWD_UNLABELLED && !bit(held, slot))) order[count++] = (uint16_t)slot;
    return count;
}

/* The same in the order of one epoch, or of one pass of its rounds. */
static uint32_t draw_order(const lfwd_stage *stage, uint32_t draws)
{
    const uint32_t count = fill_order(stage);
    for (uint32_t last = count; last-- > 1;) {
        const uint32_t other = lfwd_hash32(draws + last) % (last + 1u);
        const uint16_t slot = order[last];
        order[last] = order[other];
        order[other] = slot;
    }
    return count;
}

static void run_batch(const lfwd_stage *stage, uint32_t at, void (*step)(const lfwd_value *, const int64_t *))
{
    int64_t targets[LFWD_MOST_BATCH];
    for (uint32_t k = 0; k < stage->batch; k++) {
        lfwd_samples_get(order[at + k], gathered[k]);
        targets[k] = stage->learns ? lfwd_samples_label(order[at + k]) : 0;
    }
    step(gathered[0], targets);
    LFWD_BETWEEN_STEPS();
}

static void run_epoch(const lfwd_stage *stage, uint32_t draws)
{
    const uint32_t count = draw_order(stage, draws);
    for (uint32_t at = 0; at + stage->batch <= count; at += stage->batch) run_batch(stage, at, stage->step);
}

/* All rounds, each with the samples that it asks for: pass after pass over what there is, one round going on where the last one stopped. */
static void run_rounds(const lfwd_stage *stage, uint32_t seed, uint32_t window)
{
    uint32_t count = 0, at = 0;
    for (uint32_t r = 0; r < stage->rounds_count; r++) {
        begin(stage);
        for (uint32_t seen = 0; seen < stage->rounds[r].samples; seen += stage->batch, at += stage->batch) {
            if (at + stage->batch > count) {
                count = draw_order(stage, lfwd_draws_of(seed, window++));
                at = 0;
            }
            run_batch(stage, at, stage->rounds[r].step);
        }
        stage->rounds[r].end();
        LFWD_BETWEEN_STEPS();
    }
}

static lfwd_stage_report run_stage(uint32_t number, const lfwd_adapt_settings *settings, int guarded, int learned, const lfwd_stage_report *reports)
{
    const lfwd_stage *stage = &lfwd_stages[number];
    lfwd_stage_report report = {LFWD_TOO_FEW_SAMPLES, 0, 0, 0, 0, 0, 0};
    judges who = guarded && (stage->learns || learned) ? BY_HELD : BY_LABELLED;
    if (who == BY_LABELLED && count_judges(who) == 0) who = BY_ALL;
    report.judged_on = count_judges(who);
    if (stage->learns && who == BY_ALL) {
        report.outcome = LFWD_NO_LABELS;
        return report;
    }
    if (report.judged_on < (guarded ? 2u : 1u) || fill_order(stage) < stage->batch) return report;
    memset(right, 0, sizeof right);
    const lfwd_total before = judge(who, report.judged_on, 1).loss;
    report.before = told(before, report.judged_on);
    copy_weights(stage, 0);
    begin(stage);
    begin_as_shipped(stage, reports);
    verdict last = {0, 0, 0}, best = last;
    int found = 0;
    for (uint32_t epoch = 0, since = 0; epoch < stage->epochs; epoch++) {
        if (stage->rounds)
            run_rounds(stage, settings->seed, 0x10000u * (number + 1u));
        else
            run_epoch(stage, lfwd_draws_of(settings->seed, 0x10000u * (number + 1u) + epoch));
        last = judge(who, report.judged_on, 0);
        report.epochs = (uint16_t)(epoch + 1u);
        if (!is_finite(last.loss)) break;
        if (!guarded) continue;
        if (!harms(last, before) && (!found || is_better(last.loss, best.loss, report.judged_on))) {
            found = 1;
            best = last;
            copy_weights(stage, 0);
            since = 0;
        } else if (++since >= settings->patience) {
            break;
        }
    }
    if (guarded || !is_finite(last.loss)) copy_weights(stage, 1);
    const verdict judged = found ? best : last;
    report.after = told(judged.loss, report.judged_on);
    report.lost = judged.lost;
    report.won = judged.won;
    if (guarded ? found : is_finite(last.loss))
        report.outcome = guarded ? LFWD_KEPT : LFWD_KEPT_UNGUARDED;
    else
        report.outcome = is_finite(last.loss) ? LFWD_ROLLED_BACK : LFWD_NOT_FINITE;
    return report;
}

int lfwd_adapt(const lfwd_adapt_settings *settings, lfwd_stage_report reports[LFWD_STAGES])
{
    int kept = 0, learned = 0;
    const int guarded = settings->held_back > 0 && count_judges(BY_LABELLED) > 0;
    hold_back(settings->seed, guarded ? settings->held_back : 0);
    for (uint32_t number = 0; number < LFWD_STAGES; number++) {
        reports[number] = run_stage(number, settings, guarded, learned, reports);
        const int taken = reports[number].outcome <= LFWD_KEPT_UNGUARDED;
        kept += taken;
        learned = learned || (taken && lfwd_stages[number].learns);
    }
    return kept;
}

int32_t lfwd_answer(const lfwd_value input[LFWD_INPUT])
{
    lfwd_total sums[SCALES] = {0};
    return predict(input, LFWD_UNLABELLED, sums);
}

const char *lfwd_outcome_text(lfwd_outcome outcome)
{
    switch (outcome) {
    case LFWD_KEPT: return "kept";
    case LFWD_KEPT_UNGUARDED: return "kept, not guarded: no labels are held back";
    case LFWD_ROLLED_BACK: return "rolled back: it does harm";
    case LFWD_NOT_FINITE: return "rolled back: it diverged";
    case LFWD_TOO_FEW_SAMPLES: return "not run: too few samples";
    case LFWD_NO_LABELS: return "not run: no labels";
    }
    return "unknown outcome";
}

/* Records, and the runs that read them. */
#include <math.h>
#include <string.h>

#include "lfwd_npu.h"

lfwd_npu_memory lfwd_npu __attribute__((aligned(16)));

void lfwd_npu_init(void)
{
    memset(&lfwd_npu, 0, sizeof lfwd_npu);
    memcpy(lfwd_npu.table, lfwd_npu_original, sizeof lfwd_npu.table);
    memcpy(lfwd_npu.weight, lfwd_npu_head_weight, sizeof lfwd_npu.weight);
    memcpy(lfwd_npu.bias, lfwd_npu_head_bias, sizeof lfwd_npu.bias);
    for (int c = 0; c < LFWD_NPU_CHANNELS; c++) lfwd_npu.gain[c] = 1.0f;
}

int lfwd_npu_run(const int8_t *image)
{
    uint64_t bases[3] = {(uint64_t)(uintptr_t)lfwd_npu_constants, (uint64_t)(uintptr_t)lfwd_npu.arena,
                         (uint64_t)(uintptr_t)lfwd_npu.table};
    static const size_t sizes[3] = {LFWD_NPU_CONSTANT_BYTES, LFWD_NPU_ARENA_BYTES, LFWD_NPU_TABLE_BYTES};
    memcpy(lfwd_npu.arena + LFWD_NPU_INPUT_OFFSET, image, LFWD_NPU_INPUT_BYTES);
    return lfwd_npu_invoke(lfwd_npu_commands, LFWD_NPU_COMMAND_BYTES, bases, sizes, 3);
}

void lfwd_put_record(uint8_t *record, int32_t bias, float gain)
{
    int exponent;
    uint32_t scale = (uint32_t)(frexpf(gain, &exponent) * 2147483648.0f);
    int shift = 31 - exponent;
    if (shift > 63) {
        scale >>= shift - 63 < 31 ? shift - 63 : 31;
        shift = 63;
    }
    while (scale && scale % 2 == 0 && shift > 0) { /* as the compiler writes it */
        scale /= 2;
        shift--;
    }
    for (int k = 0; k < 4; k++) record[k] = (uint8_t)((uint32_t)bias >> 8 * k);
    record[4] = bias < 0 ? 0xFF : 0; /* the bias has 40 bits */
    for (int k = 0; k < 4; k++) record[5 + k] = (uint8_t)(scale >> 8 * k);
    record[9] = (uint8_t)shift;
}

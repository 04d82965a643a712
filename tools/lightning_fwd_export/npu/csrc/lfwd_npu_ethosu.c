/* SPDX-License-Identifier: Apache-2.0
 *
 * An example of lfwd_npu_invoke for Arm's Ethos-U core driver (ethosu_driver.h). It was compiled, against three declarations of the driver's; it
 * never ran on hardware. A fast memory of the driver's (ethosu_init) does no harm: it takes base pointer 2, which is not used. The table of records
 * is base pointer 3: NPU_REGIONCFG_3 must let it reach the RAM where lfwd_npu lies, as the driver's default does. On a core with a data cache
 * implement ethosu_flush_dcache() and ethosu_invalidate_dcache(), so that the NPU reads what the CPU has just written, in the table too: releases with
 * ethosu_set_basep_cache_mask() ask for base pointer 1 alone by default. */
#include "ethosu_driver.h"
#include "lfwd_npu.h"

int lfwd_npu_invoke(const void *commands, int bytes, uint64_t *bases, const size_t *sizes, int count)
{
    struct ethosu_driver *driver = ethosu_reserve_driver();
    if (!driver) return -1;
    const int error = ethosu_invoke_v3(driver, commands, bytes, bases, sizes, count, NULL);
    ethosu_release_driver(driver);
    return error;
}

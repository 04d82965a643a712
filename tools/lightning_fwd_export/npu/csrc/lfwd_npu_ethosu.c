/* SPDX-License-Identifier: Apache-2.0
 *
 * An example of lfwd_npu_invoke for Arm's Ethos-U core driver (ethosu_driver.h). It was compiled, against three declarations of the driver's; it
 * never ran on hardware. The driver must have no fast memory (ethosu_init with NULL and 0): it would put that in the place of the table of
 * records. On a core with a data cache implement ethosu_flush_dcache() and ethosu_invalidate_dcache(), so that the NPU reads what the CPU has
 * just written, in the table too: releases with ethosu_set_basep_cache_mask() ask for base pointer 1 alone by default. */
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

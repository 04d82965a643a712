/* SPDX-License-Identifier: Apache-2.0
 *
 * An example of lfwd_npu_invoke for Arm's Ethos-U core driver (ethosu_driver.h). It was compiled, against the driver's interface; it never ran on
 * hardware. The driver calls ethosu_flush_dcache() on the regions before a run and ethosu_invalidate_dcache() after it: on a core with a data
 * cache implement both, so that the NPU reads the records that the CPU has just written. */
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

/* The smallest firmware around a library, to read its Flash and RAM from the linked file: no stdio, the caller's buffers left out. It is
 * linked, never run. */
#include "board.h"
#include "lfwd_adapt.h"
#ifdef LFWD_RECONSTRUCTS
#include "lfwd_anomaly.h"
#endif

void board_init(void) {}

int main(void)
{
    void *volatile buffer = (void *)0x20000000u;
    const lfwd_adapt_settings settings = LFWD_ADAPT_SETTINGS;
    lfwd_init();
    lfwd_samples_clear(settings.seed);
#ifdef RAW
    lfwd_prepare(buffer, buffer);
#endif
    (void)lfwd_samples_add(buffer, 0);
    (void)lfwd_adapt(&settings, buffer);
#ifdef LFWD_INTEGER
    lfwd_forward(buffer, buffer, buffer);
#else
    lfwd_forward(buffer, buffer);
#endif
#ifdef LFWD_RECONSTRUCTS
    (void)lfwd_normal_add(buffer, lfwd_anomaly_score(buffer));
    (void)lfwd_normal_calibrate(buffer, LFWD_FALSE_ALARMS);
#endif
    lfwd_get_weights(buffer);
    lfwd_set_weights(buffer);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What was learned, kept over a reset: two slots in Flash (or EEPROM, or a file), written in turn. A slot counts only once its last
 * bytes are written, so a power cut at any byte loses at most the newest save.
 *
 * All state is kept: weights, momentum, counters, exponents, the threshold of anomalies. A slot is, little endian:
 *
 *      0  "LFWD"
 *      4  uint32  version of this format, 1
 *      8  uint32  LFWD_MODEL_HASH: learned weights fit the frozen ones beside them and no others
 *     12  uint32  number of this save; the newer slot has the higher one
 *     16  uint32  LFWD_STATE_BYTES
 *     20  uint32  LFWD_WEIGHTS_BYTES: so many of the first bytes of the state are what lfwd_get_weights gives
 *     24  the state
 *         uint32  CRC-32 (IEEE 802.3) of all before it, then 0xff up to a whole piece
 */
#ifndef LFWD_STORE_H
#define LFWD_STORE_H
#include <stdint.h>

#include "lfwd_model.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef LFWD_PIECE_BYTES
#define LFWD_PIECE_BYTES 32 /* what is written at once: a multiple of what the Flash writes at once, at least 4 */
#endif

#define LFWD_STORE_VERSION 1u
#define LFWD_STORE_HEADER_BYTES 24
#define LFWD_SLOT_BYTES \
    (((LFWD_STORE_HEADER_BYTES + LFWD_STATE_BYTES + 4 + LFWD_PIECE_BYTES - 1) / LFWD_PIECE_BYTES) * LFWD_PIECE_BYTES)

/* Where it is kept. Both callbacks return 0, or anything else for "failed".
 *
 * write: pieces of LFWD_PIECE_BYTES, one after the other from byte 0 on. With the piece at 0 the whole slot is erased first.
 * read:  any count at any place of a slot; what was never written may read as anything.
 */
typedef struct {
    int (*read)(void *context, int slot, uint32_t at, uint8_t *bytes, uint32_t count);
    int (*write)(void *context, int slot, uint32_t at, const uint8_t *bytes, uint32_t count);
    void *context;
} lfwd_flash;

typedef enum {
    LFWD_STORED = 0,       /* saved, or loaded */
    LFWD_NOTHING_STORED,   /* both slots are erased or foreign: the first start */
    LFWD_DAMAGED,          /* a slot was begun or changed, none is whole */
    LFWD_OTHER_MODEL,      /* a whole slot, of another model or of other frozen weights */
    LFWD_OTHER_VERSION,    /* a slot of another version of this format */
    LFWD_READ_FAILED,      /* a callback said so */
    LFWD_WRITE_FAILED      /* a callback said so, or what was written reads as something else */
} lfwd_stored;

/* Write the present state into the slot that is not the newest, and read it back. The other slot stays as it is. */
lfwd_stored lfwd_save(const lfwd_flash *flash);

/* Take the newest whole slot of this model. Call lfwd_init() first. Refused, the state is what it was before the call; only if a slot
 * that was whole a moment ago cannot be read again, it is that of lfwd_init(). */
lfwd_stored lfwd_load(const lfwd_flash *flash);

/* What a result means, in words. */
const char *lfwd_why(lfwd_stored result);

#ifdef __cplusplus
}
#endif
#endif

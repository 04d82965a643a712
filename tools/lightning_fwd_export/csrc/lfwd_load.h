/* Several neighbours into registers by one instruction (internal). An FPU of Arm's loads any run of registers with VLDMIA; compilers
 * load them one by one, so the instruction is written out and the names below are tied to registers. Elsewhere it is plain C. */
#ifndef LFWD_LOAD_H
#define LFWD_LOAD_H

#if defined(__GNUC__) && defined(__thumb2__) && defined(__ARM_FP) && !defined(LFWD_PLAIN)
#define LFWD_TIED(name, where) register float name __asm__(where)
#define LFWD_VLDMIA(p, moves, registers, ...) \
    __asm__ volatile("vldmia %0" moves ", {" registers "}" : "+r"(p), __VA_ARGS__ : : "memory")
#define LFWD_TO(name) "=t"(name)
#define LFWD_NEXT8(p)                                                                                                \
    LFWD_VLDMIA(p, "!", "s16-s23", LFWD_TO(y0), LFWD_TO(y1), LFWD_TO(y2), LFWD_TO(y3), LFWD_TO(y4), LFWD_TO(y5), LFWD_TO(y6), \
                LFWD_TO(y7))
#define LFWD_LOW4(p) LFWD_VLDMIA(p, "", "s16-s19", LFWD_TO(y0), LFWD_TO(y1), LFWD_TO(y2), LFWD_TO(y3))
#define LFWD_HIGH4(p) LFWD_VLDMIA(p, "", "s20-s23", LFWD_TO(y4), LFWD_TO(y5), LFWD_TO(y6), LFWD_TO(y7))
#define LFWD_NEXT_LOW4(p) LFWD_VLDMIA(p, "!", "s16-s19", LFWD_TO(y0), LFWD_TO(y1), LFWD_TO(y2), LFWD_TO(y3))
#define LFWD_NEXT_HIGH4(p) LFWD_VLDMIA(p, "!", "s20-s23", LFWD_TO(y4), LFWD_TO(y5), LFWD_TO(y6), LFWD_TO(y7))
#define LFWD_NEXT_PAIR0(p) LFWD_VLDMIA(p, "!", "s16-s17", LFWD_TO(y0), LFWD_TO(y1))
#define LFWD_NEXT_PAIR1(p) LFWD_VLDMIA(p, "!", "s18-s19", LFWD_TO(y2), LFWD_TO(y3))
#define LFWD_NEXT_PAIR2(p) LFWD_VLDMIA(p, "!", "s20-s21", LFWD_TO(y4), LFWD_TO(y5))
#define LFWD_NEXT_PAIR3(p) LFWD_VLDMIA(p, "!", "s22-s23", LFWD_TO(y6), LFWD_TO(y7))
#define LFWD_LOW6(p) LFWD_VLDMIA(p, "", "s16-s21", LFWD_TO(y0), LFWD_TO(y1), LFWD_TO(y2), LFWD_TO(y3), LFWD_TO(y4), LFWD_TO(y5))
#define LFWD_LOW8(p)                                                                                                 \
    LFWD_VLDMIA(p, "", "s16-s23", LFWD_TO(y0), LFWD_TO(y1), LFWD_TO(y2), LFWD_TO(y3), LFWD_TO(y4), LFWD_TO(y5), LFWD_TO(y6), \
                LFWD_TO(y7))
#define LFWD_NEXT_TOP4(p) LFWD_VLDMIA(p, "!", "s22-s25", LFWD_TO(y6), LFWD_TO(y7), LFWD_TO(u0), LFWD_TO(u1))
#define LFWD_BOTH(p) LFWD_VLDMIA(p, "", "s24-s25", LFWD_TO(u0), LFWD_TO(u1))
#define LFWD_PUT_BOTH(p) __asm__ volatile("vstmia %0!, {s24-s25}" : "+r"(p) : "t"(u0), "t"(u1) : "memory")
#define LFWD_PUT_HIGH4(p) \
    __asm__ volatile("vstmia %0!, {s20-s23}" : "+r"(p) : "t"(y4), "t"(y5), "t"(y6), "t"(y7) : "memory")
#define LFWD_NEXT2(p) LFWD_VLDMIA(p, "!", "s24-s25", LFWD_TO(u0), LFWD_TO(u1))
#else
#define LFWD_TIED(name, where) float name
#define LFWD_NEXT8(p) (y0 = (p)[0], y1 = (p)[1], y2 = (p)[2], y3 = (p)[3], y4 = (p)[4], y5 = (p)[5], y6 = (p)[6], y7 = (p)[7], (p) += 8)
#define LFWD_LOW4(p) (y0 = (p)[0], y1 = (p)[1], y2 = (p)[2], y3 = (p)[3])
#define LFWD_HIGH4(p) (y4 = (p)[0], y5 = (p)[1], y6 = (p)[2], y7 = (p)[3])
#define LFWD_NEXT_LOW4(p) (LFWD_LOW4(p), (p) += 4)
#define LFWD_NEXT_HIGH4(p) (LFWD_HIGH4(p), (p) += 4)
#define LFWD_NEXT_PAIR0(p) (y0 = (p)[0], y1 = (p)[1], (p) += 2)
#define LFWD_NEXT_PAIR1(p) (y2 = (p)[0], y3 = (p)[1], (p) += 2)
#define LFWD_NEXT_PAIR2(p) (y4 = (p)[0], y5 = (p)[1], (p) += 2)
#define LFWD_NEXT_PAIR3(p) (y6 = (p)[0], y7 = (p)[1], (p) += 2)
#define LFWD_LOW6(p) (y0 = (p)[0], y1 = (p)[1], y2 = (p)[2], y3 = (p)[3], y4 = (p)[4], y5 = (p)[5])
#define LFWD_LOW8(p) (y0 = (p)[0], y1 = (p)[1], y2 = (p)[2], y3 = (p)[3], y4 = (p)[4], y5 = (p)[5], y6 = (p)[6], y7 = (p)[7])
#define LFWD_NEXT_TOP4(p) (y6 = (p)[0], y7 = (p)[1], u0 = (p)[2], u1 = (p)[3], (p) += 4)
#define LFWD_BOTH(p) (u0 = (p)[0], u1 = (p)[1])
#define LFWD_PUT_BOTH(p) ((p)[0] = u0, (p)[1] = u1, (p) += 2)
#define LFWD_PUT_HIGH4(p) ((p)[0] = y4, (p)[1] = y5, (p)[2] = y6, (p)[3] = y7, (p) += 4)
#define LFWD_NEXT2(p) (u0 = (p)[0], u1 = (p)[1], (p) += 2)
#endif

/* The names: eight values and two more. NEXT and PUT move the pointer on. */
#define LFWD_LOADED                                                                                               \
    LFWD_TIED(y0, "s16");                                                                                         \
    LFWD_TIED(y1, "s17");                                                                                         \
    LFWD_TIED(y2, "s18");                                                                                         \
    LFWD_TIED(y3, "s19");                                                                                         \
    LFWD_TIED(y4, "s20");                                                                                         \
    LFWD_TIED(y5, "s21");                                                                                         \
    LFWD_TIED(y6, "s22");                                                                                         \
    LFWD_TIED(y7, "s23");                                                                                         \
    LFWD_TIED(u0, "s24");                                                                                         \
    LFWD_TIED(u1, "s25")
#endif

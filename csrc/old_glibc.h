// Included before every C++ source of a build with glibc: the extension then asks for no symbol that is newer than
// glibc 2.28, whatever glibc the building machine has, so that a wheel can carry the tag manylinux_2_28.
//
//   exp, exp2, log, log2, pow   have a second version since 2.29 that differs from the first in error reporting (errno,
//                               matherr) alone; -fno-math-errno says that nobody reads it. The first version is named here.
//   dlsym                       moved from libdl to libc in 2.34; torch's headers call it. The old version is named here.
//   __libc_single_threaded      (2.32) lets libstdc++ skip atomic operations; old_glibc.cpp gives the library its own, which
//                               says "maybe not single" for good.
//
// What remains is looked at by tests/packaging/test_symbols.py and by auditwheel.
#pragma once

#if defined(__linux__) && defined(__x86_64__) && !defined(__CUDA_ARCH__)
#include <features.h>
#ifdef __GLIBC__
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver exp2, exp2@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver log2, log2@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#endif
#endif

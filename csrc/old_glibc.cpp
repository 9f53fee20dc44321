// See old_glibc.h. Hidden: the process's own variable, where there is one, stays what it is for everybody else.

#if defined(__linux__) && __has_include(<sys/single_threaded.h>)
extern "C" {
extern __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
}
#endif

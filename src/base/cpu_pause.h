/* What a thread does between two looks at a word that another thread is about to change. */
#ifndef BASE_CPU_PAUSE_H
#define BASE_CPU_PAUSE_H

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif

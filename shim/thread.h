/*
 * Threads of the shim: what pool.c and waiter.c have in common.
 */
#ifndef AIO_THREAD_H
#define AIO_THREAD_H

#include <pthread.h>
#include <signal.h>

/* They call the C library and nothing else. */
#define AIO_STACK_BYTES (128u * 1024)

/*
 * Until glibc 2.34 these were in libpthread, under the first version of all,
 * which is still served: so the library loads wherever Deno does.
 */
#if defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
#if defined(__x86_64__)
#define USE_FIRST(name) __asm__(".symver " #name "," #name "@GLIBC_2.2.5")
#elif defined(__aarch64__)
#define USE_FIRST(name) __asm__(".symver " #name "," #name "@GLIBC_2.17")
#endif
USE_FIRST(pthread_create);
USE_FIRST(pthread_join);
USE_FIRST(pthread_detach);
USE_FIRST(pthread_attr_setstacksize);
#endif

/* 0 or an errno, as pthread_create() has it. */
static inline int aio_start_thread(pthread_t *thread, void *(*start)(void *),
				   void *argument)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	int error;

	pthread_attr_init(&attributes);
	/* Where the C library wants more, it stays at the default. */
	pthread_attr_setstacksize(&attributes, AIO_STACK_BYTES);
	/* The mask is inherited: signals are for the program's own threads. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, &attributes, start, argument);
	sigprocmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

#endif

/* Preloaded: a date that jumps by a year, to and fro, whenever it is asked for. Monotonic clocks are as they are. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define YEAR_S (365L * 24 * 60 * 60)

static long jump(void)
{
    static atomic_uint asked;
    return atomic_fetch_add(&asked, 1) % 2 ? YEAR_S : -YEAR_S;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long status = syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jump();
    return (int)status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    long status = syscall(SYS_gettimeofday, now, zone);
    if (status == 0)
        now->tv_sec += jump();
    return (int)status;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

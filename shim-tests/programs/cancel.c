/* Threads that end inside the driver: one that is cancelled in its first call, one that the driver ends, one that is cancelled
 * later. Says of each what its last will was, and what it left; then that the driver can still be called.
 *
 * A cancellation is asked for before the thread calls, and takes effect where the driver, or whoever stands before it, first waits. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>

static unsigned (*alloc)(unsigned long long *, unsigned long);
static sem_t ready, asked;

static void last_will(void *word)
{
    printf("%s cleaned up\n", (const char *)word);
}

static void *run(void *argument)
{
    unsigned long long address;
    int state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    sem_post(&ready);
    sem_wait(&asked);
    pthread_cleanup_push(last_will, "thread");
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
    alloc(&address, (unsigned long)argument);
    pthread_cleanup_pop(0);
    return NULL;
}

static void end_a_thread(const char *how, unsigned long bytes)
{
    pthread_t thread;
    void *left;
    if (pthread_create(&thread, NULL, run, (void *)bytes))
        return;
    sem_wait(&ready);
    if (bytes != 1)
        pthread_cancel(thread);
    sem_post(&asked);
    pthread_join(thread, &left);
    printf("%s: %ld\n", how, (long)left);
}

int main(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    unsigned (*end)(unsigned long long);
    if (!driver)
        return 70;
    alloc = dlsym(driver, "cuMemAlloc_v2");
    end = dlsym(driver, "cuMemFree_v2");
    sem_init(&ready, 0, 0);
    sem_init(&asked, 0, 0);
    end_a_thread("cancelled at once", 2);
    end_a_thread("ended by the driver", 1);
    end_a_thread("cancelled", 2);
    printf("free: %u\n", end(0));
    return 0;
}

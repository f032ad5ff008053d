/* Calls of two threads about one thing, of which the driver obeys one. Part of tenant.c. */
#ifndef RACES_H
#define RACES_H

#include "allocators.h"
#include <pthread.h>
#include <sched.h>

#define RACE_HELD_MAX 8
#define RACE_BYTES (2ul << 20)

/* The other thread of a race, round after round: it does `step` and says what came of it. */
struct race {
    void (*step)(struct race *);
    pthread_barrier_t begin, end;
    CUcontext context;
    struct block block;
    CUresult status;
    int is_over;
};

static void *run_race(void *argument)
{
    struct race *race = argument;
    for (;;) {
        pthread_barrier_wait(&race->begin);
        if (race->is_over)
            return NULL;
        race->status = CU(cuCtxSetCurrent)(race->context);
        race->step(race);
        pthread_barrier_wait(&race->end);
    }
}

static pthread_t start_race(struct race *race, void (*step)(struct race *), CUcontext context)
{
    pthread_t thread;
    race->step = step;
    race->context = context;
    if (pthread_barrier_init(&race->begin, NULL, 2) || pthread_barrier_init(&race->end, NULL, 2) ||
        pthread_create(&thread, NULL, run_race, race))
        fail("no race");
    return thread;
}

static void end_race(struct race *race, pthread_t thread)
{
    race->is_over = 1;
    pthread_barrier_wait(&race->begin);
    pthread_join(thread, NULL);
}

static void release_it(struct race *race)
{
    race->status = race->block.kind->release(&race->block);
}

/* Two threads free each block: how often neither, one and both were told that they did. */
static void free_twice(const struct kind *kind, unsigned long rounds, size_t bytes, CUcontext context, unsigned long counts[3])
{
    struct race race = { 0 };
    pthread_t thread = start_race(&race, release_it, context);
    for (unsigned long round = 0; round < rounds; round++) {
        struct block block = { .kind = kind };
        size_t charged = 0;
        CUresult status = kind->allocate(&block, bytes, &charged);
        if (status)
            fail("%s: %u in round %lu", kind->name, status, round);
        race.block = block;
        pthread_barrier_wait(&race.begin);
        status = kind->release(&block);
        pthread_barrier_wait(&race.end);
        counts[(status == CUDA_SUCCESS) + (race.status == CUDA_SUCCESS)]++;
    }
    end_race(&race, thread);
}

/* Allocates and frees until its context is no more. */
static void allocate_to_the_end(struct race *race)
{
    CUdeviceptr held[RACE_HELD_MAX] = { 0 };
    for (unsigned at = 0; race->status == CUDA_SUCCESS || race->status == CUDA_ERROR_OUT_OF_MEMORY; at++) {
        CUdeviceptr *slot = &held[at % RACE_HELD_MAX];
        if (*slot)
            CU(cuMemFree_v2)(*slot);
        *slot = 0;
        race->status = CU(cuMemAlloc_v2)(slot, RACE_BYTES);
    }
}

/* A thread allocates in a context that another ends; the first status that is none of it. */
static CUresult end_contexts(unsigned long rounds, CUdevice device)
{
    struct race race = { 0 };
    CUcontext current = NULL;
    CUresult status = CU(cuCtxGetCurrent)(&current);
    pthread_t thread = start_race(&race, allocate_to_the_end, NULL);
    while (!status && rounds--) {
        status = CU(cuCtxCreate_v2)(&race.context, 0, device);
        if (status)
            break;
        status = CU(cuCtxSetCurrent)(current);
        pthread_barrier_wait(&race.begin);
        for (int at = 0; at < 20; at++)
            sched_yield();
        CUresult ended = CU(cuCtxDestroy_v2)(race.context);
        pthread_barrier_wait(&race.end);
        status = status ? status : ended;
    }
    end_race(&race, thread);
    return status;
}

#endif

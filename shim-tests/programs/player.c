/* A program that makes whatever driver call it is told to make: one line in, one status out.
 *
 *     player DOOR FILE
 *
 * It knows no symbol: each is looked up by name when a line first calls it, with `dlsym` on the handle (door `dlopen`) or in
 * the global scope (`default`). FILE holds the kernels, in PTX. It ends with its standard input.
 *
 *     THREAD SYMBOL ARGUMENT …      makes the call on that thread (0 to 3) and answers its status; `-` if there is no such symbol
 *     | THREAD SYMBOL ARGUMENT …    keeps the call, without an answer …
 *     .                             … until all threads make theirs at once, each in its order; their statuses, in the order told
 *     ? NUMBER [OFFSET]             the 8 bytes at a variable, or so many bytes behind it
 *     = NUMBER FILE                 opens a file to write to, and sets a variable to its descriptor; answers that
 *
 * An argument is a number; `$3`, the value of variable 3; `&3`, its address; `&`, 4 KiB of zeros; `{…}`, the address of a
 * record of fields `b:` `h:` `w:` `d:` (1, 2, 4, 8 bytes, aligned as in C) whose values are arguments, and with `>3@112`
 * behind it variable 3 gets the 8 bytes at offset 112 when the call has been made; `'text'`, its address; `@ptx`, FILE's content;
 * `@file`, FILE's name. Whatever an address leads to lives until the program ends, so that
 * nothing that the driver still reads is gone. */
#include "cuda_doors.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>

#define THREADS 4
#define ARGUMENTS_MAX 12
#define VARIABLES (1 << 17)
#define SCRATCH_BYTES 4096
#define LINE_MAX_BYTES 4096

typedef CUresult any_function(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

struct call {
    int thread;
    char text[LINE_MAX_BYTES];
    char answer[16];
    struct call *next;
};

static uint64_t variables[VARIABLES];
static void *scope, *management_scope;
static const char *file_name;
static char *file_text;

static uint64_t number_at(const char **at)
{
    char *end;
    uint64_t number = strtoull(*at, &end, 0);
    if (end == *at)
        fail("a number, not %s", *at);
    *at = end;
    return number;
}

static uint64_t *variable_at(const char **at)
{
    uint64_t number = number_at(at);
    if (number >= VARIABLES)
        fail("no variable has the number %lu", (unsigned long)number);
    return &variables[number];
}

static void *kept(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (!memory)
        fail("out of host memory");
    return memory;
}

/* What of a record is to be copied to a variable when the call has been made. */
static __thread struct { uint64_t *to; const unsigned char *from; } fetches[4];
static __thread size_t fetch_count;

static void fetch_at(const char **at, const unsigned char *record)
{
    if (fetch_count == sizeof fetches / sizeof *fetches)
        fail("too much to fetch");
    fetches[fetch_count].to = variable_at(at);
    *at += 1; /* @ */
    fetches[fetch_count++].from = record + number_at(at);
}

static uint64_t argument_at(const char **at);

static uint64_t record_at(const char **at)
{
    unsigned char *record = kept(SCRATCH_BYTES);
    size_t offset = 0;
    while (**at != '}') {
        size_t width = **at == 'b' ? 1 : **at == 'h' ? 2 : **at == 'w' ? 4 : 8;
        if (!strchr("bhwd", **at) || (*at)[1] != ':')
            fail("a field, not %s", *at);
        *at += 2;
        uint64_t value = argument_at(at);
        offset = (offset + width - 1) / width * width;
        memcpy(record + offset, &value, width); /* little endian: the low bytes come first */
        offset += width;
        *at += **at == ',';
    }
    *at += 1;
    if (**at == '>') {
        *at += 1;
        fetch_at(at, record);
    }
    return (uintptr_t)record;
}

static uint64_t text_at(const char **at)
{
    size_t length = strcspn(*at, "'");
    char *text = kept(length + 1);
    memcpy(text, *at, length);
    *at += length + 1;
    return (uintptr_t)text;
}

static uint64_t argument_at(const char **at)
{
    const char *word = *at;
    *at += 1;
    switch (*word) {
    case '$':
        return *variable_at(at);
    case '&':
        return (uintptr_t)(isdigit(**at) ? (void *)variable_at(at) : kept(SCRATCH_BYTES));
    case '{':
        return record_at(at);
    case '\'':
        return text_at(at);
    case '@':
        *at += strcspn(*at, " ,}");
        return (uintptr_t)(strncmp(word, "@ptx", 4) ? file_name : file_text);
    default:
        *at = word;
        return number_at(at);
    }
}

static void make(struct call *call)
{
    const char *at = call->text;
    char symbol[96];
    uint64_t a[ARGUMENTS_MAX] = { 0 };
    size_t length = strcspn(at, " "), count = 0;
    snprintf(symbol, sizeof symbol, "%.*s", (int)length, at);
    at += length;
    while (*(at += strspn(at, " "))) {
        if (count == ARGUMENTS_MAX)
            fail("too many arguments: %s", call->text);
        a[count++] = argument_at(&at);
    }
    any_function *function = (any_function *)dlsym(strncmp(symbol, "nvml", 4) ? scope : management_scope, symbol);
    if (!function)
        snprintf(call->answer, sizeof call->answer, "-");
    else /* On 64-bit Linux integers and pointers take a register or 8 bytes of stack each, and more than are asked for do no harm. */
        snprintf(call->answer, sizeof call->answer, "%u",
                 function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]));
    for (; fetch_count; fetch_count--)
        memcpy(fetches[fetch_count - 1].to, fetches[fetch_count - 1].from, sizeof(uint64_t));
}

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct call *queue[THREADS];
    int busy;
} stage = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void *play(void *number)
{
    struct call **queue = &stage.queue[(intptr_t)number];
    pthread_mutex_lock(&stage.mutex);
    for (;;) {
        while (!*queue)
            pthread_cond_wait(&stage.changed, &stage.mutex);
        struct call *first = *queue;
        pthread_mutex_unlock(&stage.mutex);
        for (struct call *call = first; call; call = call->next)
            make(call);
        pthread_mutex_lock(&stage.mutex);
        *queue = NULL;
        stage.busy--;
        pthread_cond_broadcast(&stage.changed);
    }
    return NULL;
}

/* Hands each thread its queue and waits until all are done. */
static void play_all(struct call *queue[THREADS])
{
    pthread_mutex_lock(&stage.mutex);
    for (int thread = 0; thread < THREADS; thread++) {
        stage.queue[thread] = queue[thread];
        stage.busy += queue[thread] != NULL;
    }
    pthread_cond_broadcast(&stage.changed);
    while (stage.busy)
        pthread_cond_wait(&stage.changed, &stage.mutex);
    pthread_mutex_unlock(&stage.mutex);
}

static struct call *read_call(const char *line)
{
    struct call *call = kept(sizeof *call);
    int used = 0;
    if (sscanf(line, "%d %n", &call->thread, &used) != 1 || call->thread < 0 || call->thread >= THREADS)
        fail("THREAD SYMBOL ARGUMENT …, not %s", line);
    snprintf(call->text, sizeof call->text, "%s", line + used);
    return call;
}

static void play_one(const char *line)
{
    struct call *call = read_call(line), *queue[THREADS] = { NULL };
    queue[call->thread] = call;
    play_all(queue);
    puts(call->answer);
    free(call);
}

/* Calls that were told and not yet made, in the order told and by thread. */
static struct call *told[1024], *queues[THREADS], **ends[THREADS];
static size_t told_count;

static void keep(const char *line)
{
    struct call *call = read_call(line);
    if (told_count == sizeof told / sizeof *told)
        fail("too many calls at once");
    told[told_count++] = call;
    struct call **end = queues[call->thread] ? ends[call->thread] : &queues[call->thread];
    *end = call;
    ends[call->thread] = &call->next;
}

static void play_told(void)
{
    play_all(queues);
    for (size_t at = 0; at < told_count; at++) {
        printf(at ? " %s" : "%s", told[at]->answer);
        free(told[at]);
    }
    puts("");
    told_count = 0;
    memset(queues, 0, sizeof queues);
}

static void read_file(void)
{
    FILE *file = fopen(file_name, "rb");
    file_text = kept(1 << 16);
    if (!file || !fread(file_text, 1, (1 << 16) - 1, file))
        fail("%s cannot be read", file_name);
    fclose(file);
}

static void print_variable(const char *at)
{
    const unsigned char *variable = (unsigned char *)variable_at(&at);
    uint64_t value;
    memcpy(&value, variable + strtoul(at, NULL, 0), sizeof value);
    printf("%llu\n", (unsigned long long)value);
}

static void open_file(const char *at)
{
    uint64_t *variable = variable_at(&at);
    const char *name = at + strspn(at, " ");
    int descriptor = open(name, O_WRONLY | O_CLOEXEC);
    if (descriptor < 0)
        fail("%s: %s", name, strerror(errno));
    *variable = (uint64_t)descriptor;
    printf("%d\n", descriptor);
}

static void *open_scope(const char *soname, int global)
{
    void *library = dlopen(soname, RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (!library)
        fail("%s", dlerror());
    return global ? RTLD_DEFAULT : library;
}

int main(int argc, char **argv)
{
    char line[LINE_MAX_BYTES];
    if (argc != 3)
        fail("usage: player DOOR FILE");
    file_name = argv[2];
    read_file();
    int global = !strcmp(argv[1], "default");
    scope = open_scope("libcuda.so.1", global);
    management_scope = open_scope("libnvidia-ml.so.1", global);
    for (intptr_t thread = 0; thread < THREADS; thread++) {
        pthread_t started;
        if (pthread_create(&started, NULL, play, (void *)thread))
            fail("no thread");
    }
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        const char *at = line + 1 + strspn(line + 1, " ");
        if (*line == '|') {
            keep(at);
            continue;
        } else if (*line == '.')
            play_told();
        else if (*line == '?')
            print_variable(at);
        else if (*line == '=')
            open_file(at);
        else
            play_one(line);
        fflush(stdout);
    }
    return 0;
}

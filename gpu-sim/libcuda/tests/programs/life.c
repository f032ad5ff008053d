/* A program linked against the driver; prints what it sees, one line each. Arguments choose the scene. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext;
typedef unsigned long long CUdeviceptr;
extern CUresult cuInit(unsigned), cuDeviceGetCount(int *), cuDeviceGet(CUdevice *, int);
extern CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice), cuDevicePrimaryCtxRelease_v2(CUdevice);
extern CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned *, int *), cuCtxSetCurrent(CUcontext);
extern CUresult cuMemAlloc_v2(CUdeviceptr *, size_t), cuMemFree_v2(CUdeviceptr);
extern CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t), cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t);
extern CUresult cuMemGetInfo_v2(size_t *, size_t *), cuDriverGetVersion(int *);

#define SAY(call) printf("%s = %d\n", #call, (int)(call))

static void copies(void) {
    CUdeviceptr memory = 0;
    char out[16] = "over and back", in[16] = "";
    SAY(cuMemAlloc_v2(&memory, sizeof out));
    SAY(cuMemcpyHtoD_v2(memory, out, sizeof out));
    SAY(cuMemcpyDtoH_v2(in, memory, sizeof in));
    printf("%s\n", in);
    SAY(cuMemFree_v2(memory));
    SAY(cuMemFree_v2(memory));
}

int main(int argc, char **argv) {
    const char *scene = argc > 1 ? argv[1] : "";
    int count = -1, active = -1;
    unsigned flags = 0;
    CUdevice device = 0;
    CUcontext context = NULL;
    setvbuf(stdout, NULL, _IONBF, 0);
    SAY(cuDeviceGetCount(&count));
    SAY(cuInit(0));
    SAY(cuDeviceGetCount(&count));
    printf("count %d\n", count);
    if (count < 1) return 0;
    SAY(cuDeviceGet(&device, 0));
    SAY(cuDevicePrimaryCtxRetain(&context, device));
    SAY(cuCtxSetCurrent(context));
    if (!strcmp(scene, "fork")) {
        pid_t child = fork();
        if (child == 0) {
            size_t free_bytes, total_bytes;
            SAY(cuMemGetInfo_v2(&free_bytes, &total_bytes));
            SAY(cuInit(0));
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    copies();
    SAY(cuDevicePrimaryCtxRelease_v2(device));
    SAY(cuDevicePrimaryCtxGetState(device, &flags, &active));
    printf("active %d\n", active);
    return 0;
}

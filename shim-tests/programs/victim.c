/* A program that is to be killed: it starts CUDA, then allocates and frees until its end.
 *
 *     victim DOOR FILE
 *
 * The first byte of FILE says what it is doing: 0 nothing yet, 1 cuInit, 2 its context, 3 an allocation, 4 a free. */
#include "cuda_doors.h"
#include <fcntl.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        fail("usage: victim DOOR FILE");
    int file = open(argv[2], O_RDWR);
    volatile char *stage = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || stage == MAP_FAILED)
        fail("%s cannot be shared", argv[2]);
    open_doors(argv[1]);
    CUdevice device = 0;
    CUcontext context = NULL;
    *stage = 1;
    CUresult status = CU(cuInit)(0);
    *stage = 2;
    status = status ? status : CU(cuDeviceGet)(&device, 0);
    status = status ? status : CU(cuDevicePrimaryCtxRetain)(&context, device);
    status = status ? status : CU(cuCtxSetCurrent)(context);
    for (size_t bytes = (size_t)2 << 20; !status; bytes = bytes % ((size_t)64 << 20) + ((size_t)2 << 20)) {
        CUdeviceptr block = 0;
        *stage = 3;
        status = CU(cuMemAlloc_v2)(&block, bytes);
        *stage = 4;
        status = status ? status : CU(cuMemFree_v2)(block);
    }
    fail("CUDA error %u", status);
}

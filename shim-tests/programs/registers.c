/* First calls through jumps, with an argument in every register and on the stack: what register_driver.c got of them. */
#include <stdio.h>

unsigned cuInit(unsigned), cuTexRefSetMipmapLevelClamp(void *, float, float), cuParamSetf(void *, int, float);
unsigned cuPointerGetAttributes(unsigned long, int *, void **, unsigned long long, long, long, long, long);

int main(void)
{
    int attribute = 3;
    void *data = &attribute;
    printf("%u\n", cuTexRefSetMipmapLevelClamp(&attribute, 1.5F, 2.25F));
    printf("%u\n", cuParamSetf(&attribute, 7, 0.5F));
    printf("%u\n", cuPointerGetAttributes(1, &attribute, &data, 4, 5, 6, 7, 8));
    printf("%u\n", cuPointerGetAttributes(8, &attribute, &data, 7, 6, 5, 4, 3));
    return 0;
}

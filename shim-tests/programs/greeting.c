/* Says something by `puts`, for other_preload.c to trace. */
#include <stdio.h>

int main(void)
{
    return puts("hello") < 0;
}

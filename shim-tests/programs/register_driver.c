/* A driver whose functions answer with a number made of all that they were given. */
unsigned cuInit(unsigned flags)
{
    return flags;
}

unsigned cuTexRefSetMipmapLevelClamp(void *texture, float low, float high)
{
    return texture ? (unsigned)(low * 100 + high * 10000) : 1;
}

unsigned cuParamSetf(void *function, int offset, float value)
{
    return function ? (unsigned)(offset * 100) + (unsigned)(value * 10) : 1;
}

unsigned cuPointerGetAttributes(unsigned long one, int *two, void **three, unsigned long long four, long five, long six,
                                long seven, long eight)
{
    if (*three != two || *two != 3)
        return 1;
    return (unsigned)(((((one * 10 + four) * 10 + (unsigned long)five) * 10 + (unsigned long)six) * 10 +
                       (unsigned long)seven) * 10 + (unsigned long)eight);
}

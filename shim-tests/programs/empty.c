/* A library with nothing in it: what the loader's own work on any preloaded library is. */
extern const char nothing[];
const char nothing[] = "";

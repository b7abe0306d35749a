// A library that is no trainer module: it lacks the entry.
extern "C" int something_else(void) { return 0; }

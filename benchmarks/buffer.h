/* Bytes that grow. */
#ifndef BUFFER_H
#define BUFFER_H
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_LIMIT 1024

struct buffer { char *at; size_t len, cap; };

static void append(struct buffer *to, const char *bytes, size_t n) {
    if (to->len + n + 1 > to->cap) {
        to->cap = (to->len + n + 1) * 2;
        to->at = realloc(to->at, to->cap);
        if (!to->at) abort();
    }
    memcpy(to->at + to->len, bytes, n);
    to->len += n;
    to->at[to->len] = 0;
}

static void text(struct buffer *to, const char *bytes) { append(to, bytes, strlen(bytes)); }

/* As printf, for less than LINE_LIMIT bytes. */
__attribute__((format(printf, 2, 3)))
static void print(struct buffer *to, const char *form, ...) {
    char line[LINE_LIMIT];
    va_list rest;
    va_start(rest, form);
    int n = vsnprintf(line, sizeof line, form, rest);
    va_end(rest);
    if (n < 0 || n >= LINE_LIMIT) abort();
    append(to, line, n);
}
#endif

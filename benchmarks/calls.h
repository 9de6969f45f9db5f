/* What the upstream did for each call that has a number, the truth that a gateway is held to.
 *
 * A call is numbered by its message: "call-17". One that has no number is number 0, and what is
 * noted of it means nothing.
 */
#ifndef CALLS_H
#define CALLS_H
#include <stdint.h>
#include "buffer.h"

#define CALL_LIMIT (1 << 22)

/* Times it was asked, answered 200 to the last byte, refused as scripted, broken off as scripted,
 * and cut by the other side; of the last time: status, events written, tokens told. */
struct call {
    int asked, whole, refused, broken, cut, status, events, input, output, cached;
    int64_t cut_us;
};

static struct { struct call *at; int count, cap; } calls;

static struct call *call_of(int number) {
    if (number < 0 || number >= CALL_LIMIT) number = 0;
    if (number >= calls.cap) {
        int cap = number < 512 ? 1024 : number * 2;
        calls.at = realloc(calls.at, cap * sizeof *calls.at);
        if (!calls.at) abort();
        memset(calls.at + calls.cap, 0, (cap - calls.cap) * sizeof *calls.at);
        calls.cap = cap;
    }
    if (number >= calls.count) calls.count = number + 1;
    return &calls.at[number];
}

static void forget_calls(void) {
    if (calls.count) memset(calls.at, 0, calls.count * sizeof *calls.at);
    calls.count = 0;
}

/* A JSON list of every numbered call that was asked. */
static struct buffer list_calls(void) {
    struct buffer list = {0};
    text(&list, "[");
    for (int i = 1; i < calls.count; i++) {
        struct call *c = &calls.at[i];
        if (!c->asked) continue;
        if (list.len > 1) text(&list, ",");
        print(&list, "{\"number\":%d,\"asked\":%d,\"whole\":%d,\"refused\":%d,\"broken\":%d,"
              "\"cut\":%d,\"status\":%d,\"events\":%d,\"input\":%d,\"output\":%d,\"cached\":%d,"
              "\"cut_us\":%lld}", i, c->asked, c->whole, c->refused, c->broken, c->cut, c->status,
              c->events, c->input, c->output, c->cached, (long long)c->cut_us);
    }
    text(&list, "]");
    return list;
}
#endif

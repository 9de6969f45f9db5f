/* A stand-in for an OpenAI-compatible server, fast enough never to be what is measured.
 *
 *   upstream -p PORT -m "mock mock-n100-d10 mock-e503"
 *
 * The model of a request carries the knobs, as in mock-n20-d5, and so does a message that begins
 * with the number of its call, as in "content":"call-17-p300-c50-e503 Hello":
 *
 *   n  events of a stream                         e  status to answer with
 *   d  milliseconds between two of them, or       x  break the connection off after so many
 *      before a plain answer                         events of a stream, or in place of an answer
 *   w  milliseconds before a stream begins        p, c, k  tokens told: prompt, completion, cached
 *
 * Whatever is to be read of a body stands within its first KNOBS_WITHIN bytes.
 *
 * `-m` only says what GET /v1/models lists. GET /calls says what was done for every numbered call
 * since POST /reset. Each event is a write of its own, so that a reader meets them as real ones.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "answers.h"
#include "buffer.h"
#include "calls.h"

#define REQUEST_LIMIT (16u << 20)
#define BATCH 256
#define KNOBS_WITHIN 1024
#define USUAL_INPUT 19
#define USUAL_OUTPUT 24

enum state { READY, WAITING, STREAMING };

struct knobs { int events, gap_ms, wait_ms, status, breaks_after, input, output, cached; };

struct peer {
    int fd, slot; /* slot: place in `busy`, -1 when it waits for nothing */
    enum state state;
    int call, sent, is_stream, wants_usage, is_ending;
    struct knobs knobs;
    int64_t due_us;
    struct buffer in, out;
};

static struct peer **busy;
static int busy_count, busy_cap, epoll;
static struct buffer plain, listing, event, stop;

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void prepare(const char *models) {
    plain = completion(USUAL_INPUT, USUAL_OUTPUT, 0);
    /* A token of four bytes, as many as tokens are taken for where nobody tells their number. */
    event = chunk("\"choices\":[{\"index\":0,\"delta\":{\"content\":\" tok\"},"
                  "\"logprobs\":null,\"finish_reason\":null}]");
    stop = chunk("\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                 "\"finish_reason\":\"stop\"}]");
    struct buffer body = {0};
    char *names = strdup(models), *left = names, *name;
    text(&body, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; (name = strsep(&left, " ")); i++)
        print(&body, "%s{\"id\":\"%s\",\"object\":\"model\",\"created\":1760000000,"
              "\"owned_by\":\"mock\"}", i ? "," : "", name);
    text(&body, "]}");
    listing = answer(200, body.at);
    free(body.at);
    free(names);
}

static void watch(struct peer *p) {
    if (busy_count == busy_cap) {
        busy_cap = busy_cap ? busy_cap * 2 : 64;
        busy = realloc(busy, busy_cap * sizeof *busy);
        if (!busy) abort();
    }
    p->slot = busy_count;
    busy[busy_count++] = p;
}

static void rest(struct peer *p) {
    p->state = READY;
    if (p->slot < 0) return;
    busy[p->slot] = busy[--busy_count];
    busy[p->slot]->slot = p->slot;
    p->slot = -1;
}

static void hang_up(struct peer *p) {
    if (p->state != READY || p->is_ending) {
        struct call *c = call_of(p->call);
        c->cut++;
        c->cut_us = now_us();
    }
    rest(p);
    close(p->fd);
    free(p->in.at);
    free(p->out.at);
    free(p);
}

/* An answer counts once all of it has been handed to the kernel. */
static void settle(struct peer *p) {
    if (!p->is_ending || p->out.len) return;
    p->is_ending = 0;
    struct call *c = call_of(p->call);
    if (c->status == 200) c->whole++;
    else c->refused++;
}

/* Those below answer -1 when the other side is gone, or is to be. */
static int flush(struct peer *p) {
    size_t sent = 0;
    while (sent < p->out.len) {
        ssize_t n = send(p->fd, p->out.at + sent, p->out.len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) return -1;
        sent += n;
    }
    if (sent) memmove(p->out.at, p->out.at + sent, p->out.len - sent);
    p->out.len -= sent;
    settle(p);
    return 0;
}

static int say(struct peer *p, const char *bytes, size_t n) {
    ssize_t sent = 0;
    if (!p->out.len) sent = send(p->fd, bytes, n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return -1;
    if (sent < 0) sent = 0;
    if ((size_t)sent < n) append(&p->out, bytes + sent, n - sent);
    return 0;
}

static int say_once(struct peer *p, struct buffer whole) {
    int gone = say(p, whole.at, whole.len);
    free(whole.at);
    return gone;
}

static int break_off(struct peer *p) {
    call_of(p->call)->broken++;
    rest(p);
    return -1;
}

static int tell_usage(struct peer *p) {
    struct call *c = call_of(p->call);
    char line[240];
    c->input = p->knobs.input;
    c->output = p->knobs.output;
    c->cached = p->knobs.cached;
    sprintf(line, "\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"
            "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d}}", c->input,
            c->output, c->input + c->output, c->cached);
    return say_once(p, chunk(line));
}

static int stream(struct peer *p, int64_t now) {
    while (p->state == STREAMING && !p->out.len && !(p->knobs.gap_ms && p->due_us > now)) {
        if (p->sent == p->knobs.breaks_after) return break_off(p);
        if (p->sent < p->knobs.events) {
            if (say(p, event.at, event.len)) return -1;
            call_of(p->call)->events = ++p->sent;
            p->due_us += p->knobs.gap_ms * 1000LL;
            continue;
        }
        if (say(p, stop.at, stop.len)) return -1;
        if (p->wants_usage && tell_usage(p)) return -1;
        if (say(p, STREAM_END, sizeof STREAM_END - 1)) return -1;
        p->is_ending = 1;
        settle(p);
        rest(p);
    }
    return 0;
}

static int begin_stream(struct peer *p) {
    p->state = STREAMING;
    p->sent = 0;
    p->due_us = now_us();
    return say(p, STREAM_HEAD, sizeof STREAM_HEAD - 1) || stream(p, p->due_us) ? -1 : 0;
}

/* Give the whole answer: the completion, or the error that was asked for. */
static int reply(struct peer *p) {
    struct knobs *k = &p->knobs;
    struct call *c = call_of(p->call);
    int gone;
    if (k->breaks_after >= 0) return break_off(p);
    p->is_ending = 1;
    if (k->status != 200)
        gone = say_once(p, answer(k->status, "{\"error\":{\"message\":\"as asked\","
                                  "\"type\":\"server_error\",\"param\":null,\"code\":null}}"));
    else if (!p->call) gone = say(p, plain.at, plain.len);
    else {
        c->input = k->input;
        c->output = k->output;
        c->cached = k->cached;
        gone = say_once(p, completion(k->input, k->output, k->cached));
    }
    if (!gone) settle(p);
    return gone;
}

/* Read knobs from a word such as mock-n20-d5. */
static void read_knobs(struct knobs *k, const char *at, const char *end) {
    for (; at + 1 < end && *at != '"' && *at != ' '; at++) {
        if (*at != '-') continue;
        int value = atoi(at + 2);
        switch (at[1]) {
            case 'n': k->events = value; break;
            case 'd': k->gap_ms = value; break;
            case 'w': k->wait_ms = value; break;
            case 'e': k->status = value; break;
            case 'x': k->breaks_after = value; break;
            case 'p': k->input = value; break;
            case 'c': k->output = value; break;
            case 'k': k->cached = value; break;
        }
    }
}

static void read_request(struct peer *p, const char *body, size_t n) {
    const char *end = body + n, *model = memmem(body, n, "\"model\"", 7);
    p->knobs = (struct knobs){.events = 100, .status = 200, .breaks_after = -1,
                              .input = USUAL_INPUT};
    model = model ? memchr(model + 7, '"', end - model - 7) : NULL;
    if (model) read_knobs(&p->knobs, model + 1, end);
    const char *script = memmem(body, n, "\"call-", 6);
    p->call = script ? atoi(script + 6) : 0;
    if (script) read_knobs(&p->knobs, script + 6, end);
}

static int is_on(const char *body, size_t n, const char *name) {
    const char *end = body + n, *at = memmem(body, n, name, strlen(name));
    if (!at) return 0;
    for (at += strlen(name); at < end && (*at == ' ' || *at == ':'); at++) continue;
    return end - at >= 4 && !memcmp(at, "true", 4);
}

static int complete(struct peer *p, const char *body, size_t n) {
    if (n > KNOBS_WITHIN) n = KNOBS_WITHIN;
    read_request(p, body, n);
    struct knobs *k = &p->knobs;
    struct call *c = call_of(p->call);
    c->asked++;
    c->status = k->status;
    c->events = c->input = c->output = c->cached = 0;
    p->is_stream = k->status == 200 && is_on(body, n, "\"stream\"");
    p->wants_usage = p->is_stream && is_on(body, n, "\"include_usage\"");
    if (!k->output) k->output = p->is_stream ? k->events : USUAL_OUTPUT;
    int wait_ms = p->is_stream ? k->wait_ms : k->gap_ms;
    if (!wait_ms && !p->is_stream) return reply(p);
    watch(p);
    if (!wait_ms) return begin_stream(p);
    p->state = WAITING;
    p->due_us = now_us() + wait_ms * 1000LL;
    return 0;
}

static size_t body_length(const char *head, const char *end) {
    for (const char *line = head; line < end;) {
        if (!strncasecmp(line, "content-length:", 15)) return strtoul(line + 15, NULL, 10);
        const char *next = memmem(line, end - line, "\r\n", 2);
        if (!next) break;
        line = next + 2;
    }
    return 0;
}

static int report(struct peer *p) {
    struct buffer list = list_calls();
    int gone = say_once(p, answer(200, list.at));
    free(list.at);
    return gone;
}

/* Answer the requests that are there in full; a request without Content-Length has no body. */
static int serve(struct peer *p) {
    while (p->state == READY && p->in.len) {
        char *head = p->in.at, *end = memmem(head, p->in.len, "\r\n\r\n", 4);
        if (!end) return 0;
        size_t body = body_length(head, end), whole = end + 4 - head + body;
        if (p->in.len < whole) return 0;
        int gone;
        if (!strncmp(head, "GET /calls", 10)) gone = report(p);
        else if (!strncmp(head, "GET ", 4)) gone = say(p, listing.at, listing.len);
        else if (!strncmp(head, "POST /reset", 11)) {
            forget_calls();
            gone = report(p);
        } else gone = complete(p, end + 4, body);
        if (gone) return -1;
        memmove(head, head + whole, p->in.len - whole);
        p->in.len -= whole;
    }
    return 0;
}

static int listen_to(struct peer *p) {
    static char bytes[65536];
    for (;;) {
        ssize_t n = recv(p->fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EAGAIN) return serve(p);
        if (n <= 0 || p->in.len + n > REQUEST_LIMIT) return -1;
        append(&p->in, bytes, n);
    }
}

static void welcome(int door) {
    int fd, yes = 1;
    while ((fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct peer *p = calloc(1, sizeof *p);
        if (!p) abort();
        p->fd = fd;
        p->slot = -1;
        struct epoll_event e = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = p}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

static void attend(struct peer *p, uint32_t events) {
    int gone = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if (!gone && events & EPOLLOUT) gone = flush(p) || stream(p, now_us());
    if (!gone && events & (EPOLLIN | EPOLLRDHUP)) gone = listen_to(p);
    if (gone) hang_up(p);
}

/* Do what is due and say how long nothing else is. */
static int64_t tick(void) {
    int64_t now = now_us(), next = INT64_MAX;
    for (int i = busy_count - 1; i >= 0; i--) {
        struct peer *p = busy[i];
        int gone = 0;
        if (p->state == STREAMING) gone = stream(p, now);
        else if (p->due_us <= now && p->is_stream) gone = begin_stream(p);
        else if (p->due_us <= now) {
            rest(p);
            gone = reply(p);
        }
        if (!gone && p->state == READY) gone = serve(p);
        if (gone) hang_up(p);
        else if (p->state != READY && !p->out.len && p->due_us < next) next = p->due_us;
    }
    return next == INT64_MAX ? -1 : next > now ? next - now : 0;
}

static int open_door(int port) {
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 1024)) {
        perror("upstream");
        exit(1);
    }
    struct epoll_event e = {EPOLLIN, {.ptr = NULL}};
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, door, &e);
    return door;
}

int main(int argc, char **argv) {
    int port = 0, option;
    const char *models = "mock";
    while ((option = getopt(argc, argv, "p:m:")) != -1) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'm') models = optarg;
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prepare(models);
    int door = open_door(port);
    struct epoll_event events[BATCH];
    for (;;) {
        int64_t wait_us = tick();
        struct timespec wait = {wait_us / 1000000, wait_us % 1000000 * 1000};
        int n = epoll_pwait2(epoll, events, BATCH, wait_us < 0 ? NULL : &wait, NULL);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) attend(events[i].data.ptr, events[i].events);
            else welcome(door);
        }
    }
}

/* A stand-in for an OpenAI-compatible server, fast enough never to be what is measured.
 *
 *   upstream -p PORT -m "mock mock-n100-d10 mock-e503"
 *
 * The model of a request carries the knobs: n = events of a stream, d = milliseconds between two
 * events (for a plain call: before the answer), e = status to answer with. `-m` only says what
 * GET /v1/models lists. GET /stats counts what happened since POST /reset, client hang-ups
 * included. Each event is a write of its own, so that a reader meets them as a real one would.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_LIMIT (16u << 20)
#define BATCH 256
#define CHUNK_ID "\"id\":\"chatcmpl-7QmLxZk2vTgYw9RsBn4HcDfJp\",\"object\":\"chat.completion"

enum state { READY, WAITING, STREAMING };

struct buffer { char *at; size_t len, cap; };

struct peer {
    int fd, slot; /* slot: place in `busy`, -1 when it waits for nothing */
    enum state state;
    int status, events, sent, wants_usage;
    int64_t gap_us, due_us;
    struct buffer in, out;
};

static struct {
    long long requests, streams, streams_cut, plain_cut, events;
    int64_t last_cut_us;
} stats;

static struct peer **busy;
static int busy_count, busy_cap, epoll;
static struct buffer plain, listing, event, stop, usage;

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "cache-control: no-cache\r\nx-request-id: req_mock\r\ntransfer-encoding: chunked\r\n\r\n";
static const char STREAM_END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

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

static struct buffer answer(int status, const char *body) {
    struct buffer whole = {0};
    char head[160];
    sprintf(head, "HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nx-request-id: req_mock\r\n"
            "content-length: %zu\r\n\r\n", status, status == 200 ? "OK" : "Mock", strlen(body));
    text(&whole, head);
    text(&whole, body);
    return whole;
}

static struct buffer chunk(const char *rest) {
    struct buffer whole = {0};
    char line[800], size[16];
    int n = sprintf(line, "data: {" CHUNK_ID ".chunk\",\"created\":1760000000,\"model\":\"mock\","
                    "\"system_fingerprint\":\"fp_mock\",%s}\n\n", rest);
    append(&whole, size, sprintf(size, "%x\r\n", n));
    append(&whole, line, n);
    text(&whole, "\r\n");
    return whole;
}

static void prepare(const char *models) {
    plain = answer(200, "{" CHUNK_ID "\",\"created\":1760000000,\"model\":\"mock\",\"choices\":[{"
        "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"This is the same answer "
        "as always, from a server that knows no other, cut to the length of a short reply.\","
        "\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":24,\"total_tokens\":43,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0}},"
        "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\"}");
    event = chunk("\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},"
                  "\"logprobs\":null,\"finish_reason\":null}]");
    stop = chunk("\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                 "\"finish_reason\":\"stop\"}]");
    usage = chunk("\"choices\":[],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":100,"
                  "\"total_tokens\":119}");
    struct buffer body = {0};
    char *names = strdup(models), *left = names, *name;
    text(&body, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; (name = strsep(&left, " ")); i++) {
        if (i) text(&body, ",");
        text(&body, "{\"id\":\"");
        text(&body, name);
        text(&body, "\",\"object\":\"model\",\"created\":1760000000,\"owned_by\":\"mock\"}");
    }
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
    if (p->state == STREAMING) stats.streams_cut++;
    if (p->state == WAITING) stats.plain_cut++;
    if (p->state != READY) stats.last_cut_us = now_us();
    rest(p);
    close(p->fd);
    free(p->in.at);
    free(p->out.at);
    free(p);
}

/* The three below answer -1 when the other side is gone. */
static int flush(struct peer *p) {
    size_t sent = 0;
    while (sent < p->out.len) {
        ssize_t n = send(p->fd, p->out.at + sent, p->out.len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) return -1;
        sent += n;
    }
    memmove(p->out.at, p->out.at + sent, p->out.len - sent);
    p->out.len -= sent;
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

static int stream(struct peer *p, int64_t now) {
    while (p->state == STREAMING && !p->out.len && !(p->gap_us && p->due_us > now)) {
        if (p->sent < p->events) {
            if (say(p, event.at, event.len)) return -1;
            p->sent++;
            p->due_us += p->gap_us;
            stats.events++;
            continue;
        }
        if (say(p, stop.at, stop.len)) return -1;
        if (p->wants_usage && say(p, usage.at, usage.len)) return -1;
        if (say(p, STREAM_END, sizeof STREAM_END - 1)) return -1;
        rest(p);
    }
    return 0;
}

static int reply(struct peer *p) {
    if (p->status == 200) return say(p, plain.at, plain.len);
    struct buffer whole = answer(p->status, "{\"error\":{\"message\":\"as asked\","
                                 "\"type\":\"server_error\",\"param\":null,\"code\":null}}");
    int gone = say(p, whole.at, whole.len);
    free(whole.at);
    return gone;
}

static int report(struct peer *p) {
    char body[400];
    sprintf(body, "{\"requests\":%lld,\"streams\":%lld,\"streams_cut\":%lld,\"plain_cut\":%lld,"
            "\"events\":%lld,\"last_cut_us\":%lld}", stats.requests, stats.streams,
            stats.streams_cut, stats.plain_cut, stats.events, (long long)stats.last_cut_us);
    struct buffer whole = answer(200, body);
    int gone = say(p, whole.at, whole.len);
    free(whole.at);
    return gone;
}

static void read_knobs(struct peer *p, const char *body, size_t n) {
    const char *end = body + n, *at = memmem(body, n, "\"model\"", 7);
    p->status = 200;
    p->events = 100;
    p->gap_us = 0;
    at = at ? memchr(at + 7, '"', end - at - 7) : NULL;
    if (!at) return;
    for (at++; at + 1 < end && *at != '"'; at++) {
        if (*at != '-') continue;
        if (at[1] == 'n') p->events = atoi(at + 2);
        if (at[1] == 'd') p->gap_us = atoi(at + 2) * 1000LL;
        if (at[1] == 'e') p->status = atoi(at + 2);
    }
}

static int is_on(const char *body, size_t n, const char *name) {
    const char *end = body + n, *at = memmem(body, n, name, strlen(name));
    if (!at) return 0;
    for (at += strlen(name); at < end && (*at == ' ' || *at == ':'); at++) continue;
    return end - at >= 4 && !memcmp(at, "true", 4);
}

static int complete(struct peer *p, const char *body, size_t n) {
    stats.requests++;
    read_knobs(p, body, n);
    int64_t now = now_us();
    p->due_us = now + p->gap_us;
    if (p->status == 200 && is_on(body, n, "\"stream\"")) {
        stats.streams++;
        p->state = STREAMING;
        p->sent = 0;
        p->due_us = now;
        p->wants_usage = is_on(body, n, "\"include_usage\"");
        watch(p);
        return say(p, STREAM_HEAD, sizeof STREAM_HEAD - 1) || stream(p, now) ? -1 : 0;
    }
    if (!p->gap_us) return reply(p);
    p->state = WAITING;
    watch(p);
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

/* Answer the requests that are there in full; a request without Content-Length has no body. */
static int serve(struct peer *p) {
    while (p->state == READY && p->in.len) {
        char *head = p->in.at, *end = memmem(head, p->in.len, "\r\n\r\n", 4);
        if (!end) return 0;
        size_t body = body_length(head, end), whole = end + 4 - head + body;
        if (p->in.len < whole) return 0;
        int gone;
        if (!strncmp(head, "GET /stats", 10)) gone = report(p);
        else if (!strncmp(head, "GET ", 4)) gone = say(p, listing.at, listing.len);
        else if (!strncmp(head, "POST /reset", 11)) {
            memset(&stats, 0, sizeof stats);
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

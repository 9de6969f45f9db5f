/* The bytes that the upstream answers with. */
#ifndef ANSWERS_H
#define ANSWERS_H
#include "buffer.h"

#define CHUNK_ID "\"id\":\"chatcmpl-7QmLxZk2vTgYw9RsBn4HcDfJp\",\"object\":\"chat.completion"

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "cache-control: no-cache\r\nx-request-id: req_mock\r\ntransfer-encoding: chunked\r\n\r\n";
static const char STREAM_END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static struct buffer answer(int status, const char *body) {
    struct buffer whole = {0};
    print(&whole, "HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nx-request-id: req_mock\r\n"
          "content-length: %zu\r\n\r\n", status, status == 200 ? "OK" : "Mock", strlen(body));
    text(&whole, body);
    return whole;
}

static struct buffer chunk(const char *rest) {
    struct buffer whole = {0}, line = {0};
    print(&line, "data: {" CHUNK_ID ".chunk\",\"created\":1760000000,\"model\":\"mock\","
          "\"system_fingerprint\":\"fp_mock\",%s}\n\n", rest);
    print(&whole, "%zx\r\n%s\r\n", line.len, line.at);
    free(line.at);
    return whole;
}

static struct buffer completion(int input, int output, int cached) {
    struct buffer body = {0};
    print(&body, "{" CHUNK_ID "\",\"created\":1760000000,\"model\":\"mock\",\"choices\":[{"
        "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"This is the same answer "
        "as always, from a server that knows no other, cut to the length of a short reply.\","
        "\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%d,\"audio_tokens\":0},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0}},"
        "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\"}",
        input, output, input + output, cached);
    struct buffer whole = answer(200, body.at);
    free(body.at);
    return whole;
}

#endif

/* nullclouds: the cheapest possible Google Cloud Storage and Azure Blob endpoint, to measure the costs of a client.
 *
 *   cc -O2 -msse4.2 -pthread -o nullclouds nullclouds.c && ./nullclouds 9500 DIR
 *   cc -O2 -msse4.2 -pthread -DTLS -o nullclouds-tls nullclouds.c -lssl -lcrypto && ./nullclouds-tls 9543 DIR CERT.pem KEY.pem     the same over https
 *
 * Serves on 127.0.0.1 (without SSE 4.2: leave -msse4.2 out). Credentials and conditions are ignored, and nothing is stored.
 * Objects and blobs are the files of DIR; the name of the bucket or container does not matter.
 *
 * Google, JSON API: endpoint http://127.0.0.1:9500
 *   GET  /storage/v1/b/B, .../storageLayout     the bucket
 *   GET  /storage/v1/b/B/o?prefix=              the files whose names begin with the prefix, on one page
 *   GET  .../o/K, .../o/K?alt=media             the resource of the file with its CRC32C; the content (with Range)
 *   POST /upload/storage/v1/b/B/o?uploadType=   media, multipart, resumable; the answer repeats the name and the CRC32C of the
 *                                               request, or has the CRC32C of the received content
 *   PUT  the URL of a session                   308 until the last chunk
 * Google, XML API (obstore, transfer_manager): GET, HEAD, PUT /B/K; POST ?uploads, PUT ?partNumber, POST ?uploadId
 * Azure: every request with the header x-ms-version; endpoint http://127.0.0.1:9500/ACCOUNT
 *   GET, HEAD /ACCOUNT/C/K (with Range), PUT BlockBlob, PUT ?comp=block, PUT ?comp=blocklist; GET /ACCOUNT/C?comp=list;
 *   the answer to a PUT repeats the CRC-64 of the request
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif
#ifdef TLS
#include <openssl/ssl.h>
static SSL_CTX *tls_context;
static __thread SSL *tls;   /* a thread serves one connection */
#define SCHEME "https"
#else
#define SCHEME "http"
#endif

#define HEAD_MAX 65536
#define SINK_SIZE (1 << 20)
#define TAIL 512
#define SESSIONS 4096
#define FILES 16384
#define DATE "Thu, 01 Jan 2026 00:00:00 GMT"
#define GENERATION "1767225600000000"

static const char *root;
static struct { char name[1024], crc[16]; uint32_t running; } *sessions;
static unsigned session_count;
static struct { ino_t inode; off_t size; uint32_t crc; } files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ------------------------------------------------------------ CRC32C, as Google's base64 */

static uint32_t crc32c(uint32_t crc, const unsigned char *p, size_t n) {
    crc = ~crc;
#ifdef __SSE4_2__
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, p += 8) { uint64_t word; memcpy(&word, p, 8); wide = _mm_crc32_u64(wide, word); }
    crc = (uint32_t)wide;
    for (; n; n--) crc = _mm_crc32_u8(crc, *p++);
#else
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
            table[i] = c;
        }
    for (; n; n--) crc = (crc >> 8) ^ table[(crc ^ *p++) & 255];
#endif
    return ~crc;
}

static void encoded(uint32_t crc, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint64_t bits = (uint64_t)crc << 4;   /* 36 bits: six digits */
    for (int i = 0; i < 6; i++) out[i] = digits[(bits >> (30 - 6 * i)) & 63];
    strcpy(out + 6, "==");
}

static uint32_t crc_of_file(int f, const struct stat *st) {
    unsigned slot = (unsigned)(st->st_ino % FILES);
    pthread_mutex_lock(&lock);
    int known = files[slot].inode == st->st_ino && files[slot].size == st->st_size;
    uint32_t crc = files[slot].crc;
    pthread_mutex_unlock(&lock);
    if (known) return crc;
    static __thread unsigned char page[1 << 18];
    ssize_t n;
    crc = 0;
    for (off_t at = 0; (n = pread(f, page, sizeof page, at)) > 0; at += n) crc = crc32c(crc, page, (size_t)n);
    pthread_mutex_lock(&lock);
    files[slot].inode = st->st_ino; files[slot].size = st->st_size; files[slot].crc = crc;
    pthread_mutex_unlock(&lock);
    return crc;
}

/* ------------------------------------------------------------ one connection */

static ssize_t get(int fd, void *p, size_t n) {
#ifdef TLS
    (void)fd;
    size_t done;
    return SSL_read_ex(tls, p, n, &done) ? (ssize_t)done : 0;
#else
    return recv(fd, p, n, 0);
#endif
}

static int send_all(int fd, const char *p, size_t n) {
#ifdef TLS
    (void)fd;
    size_t done;
    return !n || SSL_write_ex(tls, p, n, &done) ? 0 : -1;
#endif
    while (n) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
        if (w <= 0) { if (w < 0 && errno == EINTR) continue; return -1; }
        p += w; n -= (size_t)w;
    }
    return 0;
}

static int reply(int fd, const char *status, const char *headers, const char *body) {
    size_t size = strlen(body), room = strlen(headers) + size + 512;
    char small[4096], *text = room <= sizeof small ? small : malloc(room);
    int n = snprintf(text, room <= sizeof small ? sizeof small : room,
        "HTTP/1.1 %s\r\nServer: nullclouds\r\nDate: " DATE "\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers, size, body);
    int rc = send_all(fd, text, (size_t)n);
    if (text != small) free(text);
    return rc;
}

#define JSON "Content-Type: application/json; charset=UTF-8\r\n"
#define XML "Content-Type: application/xml\r\n"
#define OF_AZURE "ETag: \"0x8DA0000000000000\"\r\nLast-Modified: " DATE "\r\nx-ms-request-id: 0\r\nx-ms-version: 2026-02-06\r\n"

static const char *header(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *p = strstr(head, "\r\n"); p && p[2] != '\r'; p = strstr(p + 2, "\r\n"))
        if (!strncasecmp(p + 2, name, n) && p[2 + n] == ':') {
            p += 3 + n;
            while (*p == ' ') p++;
            return p;
        }
    return NULL;
}

static void unquote(char *s) {
    char *o = s;
    for (; *s; s++, o++)
        if (*s == '%' && isxdigit((unsigned char)s[1]) && isxdigit((unsigned char)s[2])) {
            char hex[3] = {s[1], s[2], 0};
            *o = (char)strtol(hex, NULL, 16);
            s += 2;
        } else *o = *s;
    *o = 0;
}

/* The value of a query parameter, decoded; empty if it is missing. */
static void parameter(const char *query, const char *name, char *out, size_t room) {
    size_t n = strlen(name);
    *out = 0;
    for (const char *p = query; p && *p; p = strchr(p, '&'), p = p ? p + 1 : p)
        if (!strncmp(p, name, n) && p[n] == '=') {
            size_t length = strcspn(p + n + 1, "&");
            if (length >= room) length = room - 1;
            memcpy(out, p + n + 1, length);
            out[length] = 0;
            unquote(out);
            return;
        }
}

/* The text of a member of a JSON object; empty if it is missing. Escapes stay as they are. */
static void member(const char *json, const char *name, char *out, size_t room) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    *out = 0;
    const char *p = strstr(json, quoted);
    if (!p) return;
    p += strlen(quoted);
    p += strspn(p, " :");
    if (*p++ != '"') return;
    size_t length = strcspn(p, "\"");
    if (length >= room) length = room - 1;
    memcpy(out, p, length);
    out[length] = 0;
}

static int open_key(const char *key, struct stat *st) {
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", root, key);
    int f = strstr(key, "..") ? -1 : open(path, O_RDONLY);
    if (f >= 0 && (fstat(f, st) || !S_ISREG(st->st_mode))) { close(f); f = -1; }
    return f;
}

static void resource(char *out, size_t room, const char *key, long long size, const char *crc) {
    snprintf(out, room, "{\"kind\":\"storage#object\",\"name\":\"%s\",\"bucket\":\"b\",\"generation\":\"" GENERATION "\","
        "\"metageneration\":\"1\",\"size\":\"%lld\",\"etag\":\"CAE=\",\"storageClass\":\"STANDARD\","
        "\"contentType\":\"application/octet-stream\",\"timeCreated\":\"2026-01-01T00:00:00.000Z\","
        "\"updated\":\"2026-01-01T00:00:00.000Z\"%s%s%s}", key, size, *crc ? ",\"crc32c\":\"" : "", crc, *crc ? "\"" : "");
}

static int missing(int fd, int azure, int with_body) {
    if (azure)
        return reply(fd, "404 The specified blob does not exist.", XML "x-ms-request-id: 0\r\nx-ms-error-code: BlobNotFound\r\n",
            with_body ? "<?xml version=\"1.0\"?><Error><Code>BlobNotFound</Code><Message>no such blob</Message></Error>" : "");
    return reply(fd, "404 Not Found", JSON, with_body ? "{\"error\":{\"code\":404,\"message\":\"No such object: b/k\",\"errors\":"
        "[{\"message\":\"No such object: b/k\",\"domain\":\"global\",\"reason\":\"notFound\"}]}}" : "");
}

static int serve_object(int fd, const char *key, const char *head, int with_body, int azure) {
    char h[2048];
    struct stat st;
    int f = open_key(key, &st);
    if (f < 0) return missing(fd, azure, with_body);
    off_t from = 0, to = st.st_size - 1;
    const char *range = header(head, "x-ms-range");
    if (!range) range = header(head, "Range");
    if (range && !strncasecmp(range, "bytes=", 6)) {
        const char *p = range + 6;
        if (*p == '-') from = st.st_size - atoll(p + 1);
        else {
            from = atoll(p);
            p = strchr(p, '-');
            if (p && isdigit((unsigned char)p[1])) to = atoll(p + 1);
        }
        if (to >= st.st_size) to = st.st_size - 1;
        if (from < 0) from = 0;
        if (from >= st.st_size) { close(f); return reply(fd, "416 Range Not Satisfiable", "x-ms-error-code: InvalidRange\r\n", ""); }
    }
    off_t left = to - from + 1;
    int n = snprintf(h, sizeof h, "HTTP/1.1 %s\r\nServer: nullclouds\r\nDate: " DATE "\r\nAccept-Ranges: bytes\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: %lld\r\n", range ? "206 Partial Content" : "200 OK", (long long)left);
    if (range)
        n += snprintf(h + n, sizeof h - (size_t)n, "Content-Range: bytes %lld-%lld/%lld\r\n",
                      (long long)from, (long long)to, (long long)st.st_size);
    if (azure)
        n += snprintf(h + n, sizeof h - (size_t)n, OF_AZURE "x-ms-blob-type: BlockBlob\r\nx-ms-creation-time: " DATE "\r\n"
                      "x-ms-lease-status: unlocked\r\nx-ms-lease-state: available\r\nx-ms-server-encrypted: true\r\n\r\n");
    else {
        char crc[16];
        encoded(crc_of_file(f, &st), crc);
        n += snprintf(h + n, sizeof h - (size_t)n, "ETag: \"00000000000000000000000000000000\"\r\nLast-Modified: " DATE "\r\n"
                      "X-Goog-Generation: " GENERATION "\r\nX-Goog-Metageneration: 1\r\nX-Goog-Hash: crc32c=%s\r\n"
                      "X-Goog-Stored-Content-Encoding: identity\r\nX-Goog-Stored-Content-Length: %lld\r\n"
                      "X-Goog-Storage-Class: STANDARD\r\n\r\n", crc, (long long)st.st_size);
    }
    static __thread char page[1 << 18];
    int rc = 0;
    if (with_body && left > 0 && left <= (off_t)sizeof page - n) {   /* headers and a small body at once */
        memcpy(page, h, (size_t)n);
        ssize_t r = pread(f, page + n, (size_t)left, from);
        rc = r == (ssize_t)left ? send_all(fd, page, (size_t)(n + r)) : -1;
        left = 0;
    } else
        rc = send_all(fd, h, (size_t)n);
#ifdef TLS
    while (!rc && with_body && left > 0) {
        ssize_t r = pread(f, page, left < (off_t)sizeof page ? (size_t)left : sizeof page, from);
        if (r <= 0) { rc = -1; break; }
        rc = send_all(fd, page, (size_t)r);
        left -= r; from += r;
    }
#endif
    while (!rc && with_body && left > 0) {
        ssize_t w = sendfile(fd, f, &from, (size_t)left);
        if (w <= 0) { if (w < 0 && errno == EINTR) continue; rc = -1; break; }
        left -= w;
    }
    close(f);
    return rc;
}

static int serve_resource(int fd, const char *key) {
    struct stat st;
    char text[4096], crc[16];
    int f = open_key(key, &st);
    if (f < 0) return missing(fd, 0, 1);
    encoded(crc_of_file(f, &st), crc);
    close(f);
    resource(text, sizeof text, key, (long long)st.st_size, crc);
    return reply(fd, "200 OK", JSON, text);
}

/* `container`: of Azure; NULL for Google. */
static int serve_list(int fd, const char *query, const char *container) {
    char prefix[4096], dir[8192];
    parameter(query, "prefix", prefix, sizeof prefix);
    char *text; size_t size;
    FILE *out = open_memstream(&text, &size);
    if (container)
        fprintf(out, "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"\" ContainerName=\"%s\"><Blobs>",
            container);
    else
        fputs("{\"kind\":\"storage#objects\",\"items\":[", out);
    const char *slash = strrchr(prefix, '/');
    snprintf(dir, sizeof dir, "%s/%.*s", root, slash ? (int)(slash - prefix) : 0, prefix);
    struct dirent **entries;
    int count = scandir(dir, &entries, NULL, alphasort), listed = 0;
    for (int i = 0; i < count; i++) {
        char key[8192], path[16384], each[16384], crc[16];
        struct stat st;
        snprintf(key, sizeof key, "%.*s%s", slash ? (int)(slash - prefix + 1) : 0, prefix, entries[i]->d_name);
        snprintf(path, sizeof path, "%s/%s", root, key);
        free(entries[i]);
        if (strncmp(key, prefix, strlen(prefix))) continue;
        int f = open_key(key, &st);
        if (f < 0) continue;
        if (container)
            fprintf(out, "<Blob><Name>%s</Name><Properties><Creation-Time>" DATE "</Creation-Time><Last-Modified>" DATE
                "</Last-Modified><Etag>0x8DA0000000000000</Etag><Content-Length>%lld</Content-Length>"
                "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType>"
                "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted>"
                "</Properties></Blob>", key, (long long)st.st_size);
        else {
            encoded(crc_of_file(f, &st), crc);
            resource(each, sizeof each, key, (long long)st.st_size, crc);
            fprintf(out, "%s%s", listed++ ? "," : "", each);
        }
        close(f);
    }
    if (count >= 0) free(entries);
    fputs(container ? "</Blobs><NextMarker/></EnumerationResults>" : "]}", out);
    fclose(out);
    int rc = reply(fd, "200 OK", container ? XML : JSON, text);
    free(text);
    return rc;
}

/* ------------------------------------------------------------ requests */

typedef struct {
    const char *head, *method, *query;
    char *path;              /* decoded where a function says so */
    const char *start;       /* the first bytes of the body, as a text */
    const char *tail;        /* its last bytes, as a text */
    size_t start_size, tail_size;
    long long size;          /* bytes of the body */
    uint32_t crc;            /* its CRC32C, if it was computed */
} Request;

static int answer_azure(int fd, const Request *r) {
    const char *container = strchr(r->path + 1, '/');
    char *key = container ? strchr(container + 1, '/') : NULL;
    if (key) unquote(++key);
    int is_read = !strcmp(r->method, "GET") || !strcmp(r->method, "HEAD");
    if (is_read && strstr(r->query, "comp=list")) return serve_list(fd, r->query, container ? container + 1 : "");
    if (is_read && key && *key) return serve_object(fd, key, r->head, *r->method == 'G', 1);
    if (is_read) return reply(fd, "200 OK", OF_AZURE, "");
    if (!strcmp(r->method, "DELETE")) return reply(fd, "202 Accepted", "x-ms-request-id: 0\r\n", "");
    const char *crc = header(r->head, "x-ms-content-crc64");
    char headers[512];
    snprintf(headers, sizeof headers, OF_AZURE "x-ms-request-server-encrypted: true\r\n%s%.12s%s",
             crc ? "x-ms-content-crc64: " : "", crc ? crc : "", crc ? "\r\n" : "");
    return reply(fd, "201 Created", headers, "");
}

/* The size of the content in a multipart/related body of two parts. */
static long long size_within(const Request *r) {
    const char *type = header(r->head, "Content-Type"), *named = type ? strcasestr(type, "boundary=") : NULL;
    if (!named) return 0;
    named += 9;
    if (*named == '"' || *named == '\'') named++;
    char closing[256];
    snprintf(closing, sizeof closing - 2, "--%.*s", (int)strcspn(named, "\"'\r; "), named);
    const char *second = strstr(r->start + 2, closing);
    if (!second) return 0;
    const char *lines = strstr(second, "\r\n\r\n"), *bare = strstr(second, "\n\n");
    const char *content = lines && (!bare || lines < bare) ? lines + 4 : bare ? bare + 2 : NULL;
    strcat(closing, "--");   /* the tail of a small body has the other boundaries as well */
    const char *end = memmem(r->tail, r->tail_size, closing, strlen(closing));
    if (!content || !end) return 0;
    size_t behind = r->tail_size - (size_t)(end - r->tail) + 1;      /* with the line feed before it */
    if (end - 2 >= r->tail && end[-2] == '\r') behind++;
    return r->size - (long long)behind - (content - r->start);
}

static int answer_upload(int fd, const Request *r) {
    char name[1024], crc[16], text[4096], headers[4096], kind[32], id[32];
    parameter(r->query, "name", name, sizeof name);
    parameter(r->query, "uploadType", kind, sizeof kind);
    parameter(r->query, "upload_id", id, sizeof id);
    if (*id) {
        unsigned n = (unsigned)atoi(id) % SESSIONS;
        if (!strcmp(r->method, "DELETE")) return reply(fd, "499 Client Closed Request", "", "");
        const char *range = header(r->head, "Content-Range"), *slash = range ? strchr(range, '/') : NULL;
        const char *dash = range ? strchr(range, '-') : NULL;
        long long end = dash && slash && dash < slash ? atoll(dash + 1) + 1 : r->size;
        long long total = slash && slash[1] != '*' ? atoll(slash + 1) : range && slash ? -1 : r->size;
        if (end != total) {
            snprintf(headers, sizeof headers, "Range: bytes=0-%lld\r\n", end - 1);
            return reply(fd, "308 Resume Incomplete", headers, "");
        }
        if (!*sessions[n].crc) encoded(sessions[n].running, sessions[n].crc);
        resource(text, sizeof text, sessions[n].name, total, sessions[n].crc);
        return reply(fd, "200 OK", JSON, text);
    }
    if (!*name) member(r->start, "name", name, sizeof name);
    member(r->start, "crc32c", crc, sizeof crc);
    if (!strcmp(kind, "resumable")) {
        unsigned n = __sync_fetch_and_add(&session_count, 1) % SESSIONS;
        snprintf(sessions[n].name, sizeof sessions[n].name, "%s", name);
        snprintf(sessions[n].crc, sizeof sessions[n].crc, "%s", crc);
        sessions[n].running = 0;
        const char *host = header(r->head, "Host");
        snprintf(headers, sizeof headers, "Location: " SCHEME "://%.*s%s?uploadType=resumable&upload_id=%u\r\nX-GUploader-UploadID: %u\r\n",
                 (int)strcspn(host ? host : "", "\r"), host ? host : "", r->path, n, n);
        return reply(fd, "200 OK", headers, "");
    }
    int is_media = !strcmp(kind, "media");
    if (is_media) encoded(r->crc, crc);
    resource(text, sizeof text, name, is_media ? r->size : size_within(r), crc);
    return reply(fd, "200 OK", JSON, text);
}

static int answer_xml(int fd, const Request *r) {
    char *key = strchr(r->path + 1, '/'), headers[256], crc[16];
    if (!key) key = r->path + strlen(r->path); else unquote(++key);
    if (!strcmp(r->method, "GET") || !strcmp(r->method, "HEAD")) return serve_object(fd, key, r->head, *r->method == 'G', 0);
    if (!strcmp(r->method, "DELETE")) return reply(fd, "204 No Content", "", "");
    if (!strcmp(r->method, "POST") && strstr(r->query, "uploads"))
        return reply(fd, "200 OK", XML, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
            "<Bucket>b</Bucket><Key>k</Key><UploadId>u1</UploadId></InitiateMultipartUploadResult>");
    if (!strcmp(r->method, "POST"))
        return reply(fd, "200 OK", XML, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><CompleteMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
            "<Location>l</Location><Bucket>b</Bucket><Key>k</Key><ETag>&quot;00000000000000000000000000000000-1&quot;</ETag></CompleteMultipartUploadResult>");
    encoded(r->crc, crc);
    snprintf(headers, sizeof headers, "ETag: \"00000000000000000000000000000000\"\r\nX-Goog-Generation: " GENERATION "\r\nX-Goog-Hash: crc32c=%s\r\n", crc);
    return reply(fd, "200 OK", headers, "");
}

static int answer_google(int fd, const Request *r) {
    const char *path = r->path;
    if (!strncmp(path, "/upload/storage/", 16)) return answer_upload(fd, r);
    int is_download = !strncmp(path, "/download/storage/v1/", 21);
    if (!is_download && strncmp(path, "/storage/v1/", 12)) return answer_xml(fd, r);
    char *bucket = strstr(path, "/b/"), *after = bucket ? strchr(bucket + 3, '/') : NULL;
    if (!strcmp(r->method, "DELETE")) return reply(fd, "204 No Content", "", "");
    if (!after) return reply(fd, "200 OK", JSON, "{\"kind\":\"storage#bucket\",\"name\":\"b\"}");
    if (!strcmp(after, "/storageLayout"))
        return reply(fd, "200 OK", JSON, "{\"kind\":\"storage#storageLayout\",\"bucket\":\"b\",\"locationType\":\"region\"}");
    if (!strcmp(after, "/o")) return serve_list(fd, r->query, NULL);
    char *key = after + 3;
    unquote(key);
    return is_download || strstr(r->query, "alt=media") ? serve_object(fd, key, r->head, 1, 0) : serve_resource(fd, key);
}

/* The upload session of a request; SESSIONS if it is of none. */
static unsigned session_of(const char *target) {
    char id[32];
    const char *query = strchr(target, '?');
    parameter(query ? query + 1 : "", "upload_id", id, sizeof id);
    return *id ? (unsigned)atoi(id) % SESSIONS : SESSIONS;
}

/* Whether the client compares the CRC32C of the answer to this upload with its own. */
static int needs_crc(const char *head, const char *target) {
    unsigned session = session_of(target);
    if (session < SESSIONS) return !*sessions[session].crc;
    if (!strncmp(target, "/upload/", 8)) return strstr(target, "uploadType=media") != NULL;
    return header(head, "x-goog-api-client") != NULL && header(head, "x-ms-version") == NULL;
}

static void *serve(void *arg) {
    int fd = (int)(long)arg;
#ifdef TLS
    tls = SSL_new(tls_context);
    SSL_set_fd(tls, fd);
    if (SSL_accept(tls) != 1) { SSL_free(tls); close(fd); return NULL; }
#endif
    char *head = malloc(HEAD_MAX + 1), *sink = malloc(SINK_SIZE + 1), *start = malloc(HEAD_MAX + 1), tail[TAIL + 1];
    size_t have = 0;
    for (;;) {
        char *end;
        while (head[have] = 0, !(end = strstr(head, "\r\n\r\n"))) {
            if (have == HEAD_MAX) goto done;
            ssize_t n = get(fd, head + have, HEAD_MAX - have);
            if (n <= 0) goto done;
            have += (size_t)n;
        }
        end[2] = 0;
        char method[16] = "", target[16384] = "";
        sscanf(head, "%15s %16383s", method, target);
        const char *length = header(head, "Content-Length"), *expect = header(head, "Expect");
        long long body = length ? atoll(length) : 0;
        if (expect && !strncasecmp(expect, "100-continue", 12) && send_all(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25)) goto done;
        size_t extra = have - (size_t)(end + 4 - head);
        size_t used = (long long)extra < body ? extra : (size_t)body;
        int counts = body && needs_crc(head, target);
        Request r = {.head = head, .method = method, .start = start, .tail = tail, .size = body};
        memcpy(start, end + 4, used);
        r.start_size = used;
        unsigned session = session_of(target);
        if (counts) r.crc = crc32c(session < SESSIONS ? sessions[session].running : 0, (unsigned char *)end + 4, used);
        r.tail_size = used < TAIL ? used : TAIL;
        memcpy(tail, end + 4 + used - r.tail_size, r.tail_size);
        for (long long left = body - (long long)used; left > 0;) {
            ssize_t n = get(fd, sink, left < SINK_SIZE ? (size_t)left : SINK_SIZE);
            if (n <= 0) goto done;
            left -= n;
            if (counts) r.crc = crc32c(r.crc, (unsigned char *)sink, (size_t)n);
            size_t room = HEAD_MAX - r.start_size, more = (size_t)n < room ? (size_t)n : room;
            memcpy(start + r.start_size, sink, more);
            r.start_size += more;
            size_t last = (size_t)n < TAIL ? (size_t)n : TAIL, kept = last + r.tail_size > TAIL ? TAIL - last : r.tail_size;
            memmove(tail, tail + r.tail_size - kept, kept);
            memcpy(tail + kept, sink + n - last, last);
            r.tail_size = kept + last;
        }
        start[r.start_size] = tail[r.tail_size] = 0;
        r.path = target;
        if (!strncmp(target, "http", 4) && strstr(target, "://")) r.path = strchr(strstr(target, "://") + 3, '/');
        char *query = strchr(r.path, '?');
        if (query) *query++ = 0;
        r.query = query ? query : "";
        if (counts && session < SESSIONS) sessions[session].running = r.crc;   /* its chunks come one after the other */
        if (header(head, "x-ms-version") ? answer_azure(fd, &r) : answer_google(fd, &r)) goto done;
        size_t spent = (size_t)(end + 4 - head) + used;
        memmove(head, head + spent, have - spent);
        have -= spent;
    }
done:
#ifdef TLS
    SSL_shutdown(tls);
    SSL_free(tls);
#endif
    close(fd);
    free(head);
    free(sink);
    free(start);
    return NULL;
}

int main(int argc, char **argv) {
#ifdef TLS
    if (argc != 5) { fprintf(stderr, "usage: nullclouds-tls PORT DIR CERT.pem KEY.pem\n"); return 2; }
    tls_context = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(tls_context, argv[3]) != 1 || SSL_CTX_use_PrivateKey_file(tls_context, argv[4], SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "nullclouds-tls: certificate or key not usable\n");
        return 1;
    }
#else
    if (argc != 3) { fprintf(stderr, "usage: nullclouds PORT DIR\n"); return 2; }
#endif
    root = argv[2];
    sessions = calloc(SESSIONS, sizeof *sessions);
    signal(SIGPIPE, SIG_IGN);
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 1024)) { perror("nullclouds"); return 1; }
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept(s, NULL, NULL);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        pthread_t t;
        if (pthread_create(&t, &attr, serve, (void *)(long)fd)) close(fd);
    }
}

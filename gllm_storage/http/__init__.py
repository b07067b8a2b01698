"""HTTP/1.1 over sockets: the direct connections of S3, GCS and Azure.

The code is Python over the kernel's sockets, without a native runtime: nothing has to be stopped before a fork, and every
buffer of a body can be counted in the memory budget of the library. It knows no store.

From the top down::

    adapter       an adapter of requests over the direct connections, and its parts for GCS
    pool          connections that are kept, and the exchange of one request and one answer
    wire          HTTP/1.1 on one connection
    connecting    TCP and TLS
    transport     the bytes of a connection, over TCP or TLS
"""

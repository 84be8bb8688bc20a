"""The contracts of backends over gRPC, both ways: containerd's own services on a Unix socket.

`server` lets another program (a containerd) use a snapshotter, a content store or a differ that is a Python object;
`snapshotter`, `content` and `differ` are such objects over somebody else's socket. Needs grpcio; nothing outside of this
package imports it by the way.
"""

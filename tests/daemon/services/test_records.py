"""The services of records: namespaces, containers, images, leases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask

from moorage_api.wire import containers_pb2, content_pb2, images_pb2, leases_pb2, namespaces_pb2, types_pb2

from .conftest import Client, digest_of, failure

NOT_FOUND, EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def container(id: str, **more: Any) -> containers_pb2.Container:
    runtime = containers_pb2.Container.Runtime(
        name="io.containerd.runc.v2", options=AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x01")
    )
    return containers_pb2.Container(id=id, runtime=runtime, **more)


def image(name: str, digest: str, **more: Any) -> images_pb2.Image:
    target = types_pb2.Descriptor(media_type=MANIFEST, digest=digest, size=3, annotations={"k": "v"})
    return images_pb2.Image(name=name, target=target, **more)


class TestNamespaces:
    """They may be seen by every client, and changed only while that leaves nothing behind."""

    def test_from_create_to_delete(self, nobody: Client) -> None:
        pb, stub = namespaces_pb2, nobody.namespaces
        name = "life.of-one"
        made = stub.Create(pb.CreateNamespaceRequest(namespace=pb.Namespace(name=name, labels={"a": "1"})))
        assert made.namespace.name == name
        assert dict(stub.Get(pb.GetNamespaceRequest(name=name)).namespace.labels) == {"a": "1"}
        assert name in [n.name for n in stub.List(pb.ListNamespacesRequest()).namespaces]
        again = pb.CreateNamespaceRequest(namespace=pb.Namespace(name=name))
        assert failure(lambda: stub.Create(again))[0] is EXISTS
        stub.Delete(pb.DeleteNamespaceRequest(name=name))
        assert not stub.Get(pb.GetNamespaceRequest(name=name)).namespace.labels
        assert name not in [n.name for n in stub.List(pb.ListNamespacesRequest()).namespaces]
        assert failure(lambda: stub.Delete(pb.DeleteNamespaceRequest(name=name)))[0] is NOT_FOUND

    def test_labels_change_by_mask(self, nobody: Client) -> None:
        pb, stub = namespaces_pb2, nobody.namespaces
        space = pb.Namespace(name="labelled", labels={"a": "1", "b": "2"})
        stub.Create(pb.CreateNamespaceRequest(namespace=space))

        def update(labels: dict[str, str], *paths: str) -> dict[str, str]:
            given = pb.Namespace(name="labelled", labels=labels)
            request = pb.UpdateNamespaceRequest(namespace=given, update_mask=FieldMask(paths=paths))
            return dict(stub.Update(request).namespace.labels)

        assert update({"a": "3", "c": "4"}, "labels.a") == {"a": "3", "b": "2"}
        assert update({}, "labels.b") == {"a": "3"}
        assert update({"d.e": "5"}) == {"d.e": "5"}
        for path in ("name", "labels", "labels."):
            assert failure(lambda path=path: update({}, path))[0] is INVALID
        missing = pb.UpdateNamespaceRequest(namespace=pb.Namespace(name="absent", labels={"a": "1"}))
        assert failure(lambda: stub.Update(missing))[0] is NOT_FOUND

    @pytest.mark.parametrize("name", ["", "a/b", "-a", "a..b", "x" * 77, "é"])
    def test_malformed_names(self, nobody: Client, name: str) -> None:
        request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=name))
        assert failure(lambda: nobody.namespaces.Create(request))[0] is INVALID

    def test_one_with_something_in_it_stays(self, client: Client) -> None:
        client.containers.Create(containers_pb2.CreateContainerRequest(container=container("c")))
        request = namespaces_pb2.DeleteNamespaceRequest(name=client.namespace)
        code, message = failure(lambda: client.namespaces.Delete(request))
        assert code is PRECONDITION
        assert "container" in message
        client.containers.Delete(containers_pb2.DeleteContainerRequest(id="c"))
        client.namespaces.Delete(request)


class TestContainers:
    """Records with a specification that the daemon does not read."""

    def test_from_create_to_delete(self, client: Client) -> None:
        pb, stub = containers_pb2, client.containers
        given = container(
            "web",
            image="docker.io/library/busybox:latest",
            spec=AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}"),
            snapshotter="overlayfs",
            snapshot_key="web",
            labels={"a.b/c": "d"},
            extensions={"x": AnyMessage(type_url="t", value=b"\x00")},
        )
        made = stub.Create(pb.CreateContainerRequest(container=given)).container
        assert made.created_at.seconds > 1_700_000_000
        got = stub.Get(pb.GetContainerRequest(id="web")).container
        assert got == made
        for field in ("created_at", "updated_at"):
            got.ClearField(field)
        assert got == given
        assert failure(lambda: stub.Create(pb.CreateContainerRequest(container=given)))[0] is EXISTS
        stub.Delete(pb.DeleteContainerRequest(id="web"))
        assert failure(lambda: stub.Get(pb.GetContainerRequest(id="web")))[0] is NOT_FOUND
        assert failure(lambda: stub.Delete(pb.DeleteContainerRequest(id="web")))[0] is NOT_FOUND

    def test_lists(self, client: Client) -> None:
        pb, stub = containers_pb2, client.containers
        for id in ("c", "a", "b"):
            stub.Create(pb.CreateContainerRequest(container=container(id, labels={"id": id})))
        assert [c.id for c in stub.List(pb.ListContainersRequest()).containers] == ["c", "a", "b"]
        two = pb.ListContainersRequest(filters=["id==a", "labels.id==b"])
        assert [c.id for c in stub.List(two).containers] == ["a", "b"]
        assert [m.container.id for m in stub.ListStream(two)] == ["a", "b"]
        assert failure(lambda: list(stub.ListStream(pb.ListContainersRequest(filters=["=="]))))[0] is INVALID

    def test_changes_by_mask(self, client: Client) -> None:
        pb, stub = containers_pb2, client.containers
        stub.Create(pb.CreateContainerRequest(container=container("c", image="one", labels={"a": "1", "b": "2"})))

        def update(*paths: str, **fields: Any) -> containers_pb2.Container:
            given = pb.Container(id="c", **fields)
            return stub.Update(pb.UpdateContainerRequest(container=given, update_mask=FieldMask(paths=paths))).container

        assert dict(update("labels.a", labels={"a": "9", "b": "9"}).labels) == {"a": "9", "b": "2"}
        changed = update("image", image="two", labels={})
        assert (changed.image, dict(changed.labels)) == ("two", {"a": "9", "b": "2"})
        assert failure(lambda: update("snapshotter", snapshotter="native"))[0] is INVALID
        assert failure(lambda: update("nonsense"))[0] is INVALID

    @pytest.mark.parametrize("id", ["", "a/b", ".", "a b", "x" * 77])
    def test_malformed_ids(self, client: Client, id: str) -> None:
        request = containers_pb2.CreateContainerRequest(container=container(id))
        assert failure(lambda: client.containers.Create(request))[0] is INVALID


class TestImages:
    """Names for descriptors, which keep what they point at."""

    def test_from_create_to_delete(self, client: Client) -> None:
        pb, stub = images_pb2, client.images
        digest = client.put(b"{}")
        made = stub.Create(pb.CreateImageRequest(image=image("localhost/a:1", digest, labels={"l": "m"}))).image
        assert (made.target.digest, made.target.media_type, dict(made.target.annotations)) == (
            digest,
            MANIFEST,
            {"k": "v"},
        )
        assert stub.Get(pb.GetImageRequest(name="localhost/a:1")).image == made
        again = pb.CreateImageRequest(image=image("localhost/a:1", digest))
        assert failure(lambda: stub.Create(again))[0] is EXISTS
        assert [i.name for i in stub.List(pb.ListImagesRequest()).images] == ["localhost/a:1"]
        by_digest = pb.ListImagesRequest(filters=[f'target.digest~="{digest}"'])
        assert len(stub.List(by_digest).images) == 1
        stub.Delete(pb.DeleteImageRequest(name="localhost/a:1"))
        assert failure(lambda: stub.Get(pb.GetImageRequest(name="localhost/a:1")))[0] is NOT_FOUND
        assert failure(lambda: stub.Delete(pb.DeleteImageRequest(name="localhost/a:1")))[0] is NOT_FOUND

    def test_changes_by_mask(self, client: Client) -> None:
        pb, stub = images_pb2, client.images
        one, two = client.put(b"1"), client.put(b"2")
        stub.Create(pb.CreateImageRequest(image=image("i", one, labels={"a": "1"})))
        request = pb.UpdateImageRequest(
            image=image("i", two, labels={"b": "2"}), update_mask=FieldMask(paths=["target"])
        )
        changed = stub.Update(request).image
        assert (changed.target.digest, dict(changed.labels)) == (two, {"a": "1"})
        absent = pb.UpdateImageRequest(image=image("absent", one))
        assert failure(lambda: stub.Update(absent))[0] is NOT_FOUND

    def test_a_name_is_required(self, client: Client) -> None:
        pb, stub = images_pb2, client.images
        assert failure(lambda: stub.Create(pb.CreateImageRequest(image=image("", digest_of(b"")))))[0] is INVALID
        assert failure(lambda: stub.Update(pb.UpdateImageRequest()))[0] is INVALID

    @pytest.mark.parametrize("digest", ["", "sha256:zz", "latest"])
    def test_malformed_targets(self, client: Client, digest: str) -> None:
        request = images_pb2.CreateImageRequest(image=image("i", digest))
        assert failure(lambda: client.images.Create(request))[0] is INVALID

    def test_delete_only_with_the_given_target(self, client: Client) -> None:
        pb, stub = images_pb2, client.images
        digest = client.put(b"1")
        stub.Create(pb.CreateImageRequest(image=image("i", digest)))
        other = types_pb2.Descriptor(digest=digest_of(b"other"))
        assert failure(lambda: stub.Delete(pb.DeleteImageRequest(name="i", target=other)))[0] is NOT_FOUND
        stub.Delete(pb.DeleteImageRequest(name="i", target=types_pb2.Descriptor(digest=digest)))
        assert not stub.List(pb.ListImagesRequest()).images

    def test_a_synchronous_delete_has_collected_when_it_returns(self, client: Client) -> None:
        pb, stub = images_pb2, client.images
        digest = client.put(b"some bytes that nobody else has")
        stub.Create(pb.CreateImageRequest(image=image("i", digest)))
        stub.Delete(pb.DeleteImageRequest(name="i", sync=True))
        assert failure(lambda: client.content.Info(content_pb2.InfoRequest(digest=digest)))[0] is NOT_FOUND


class TestLeases:
    """What is written under a lease is the lease's."""

    def test_from_create_to_delete(self, client: Client) -> None:
        pb, stub = leases_pb2, client.leases
        made = stub.Create(pb.CreateRequest(id="l", labels={"a": "b"})).lease
        assert (made.id, dict(made.labels)) == ("l", {"a": "b"})
        assert stub.Create(pb.CreateRequest()).lease.id
        assert failure(lambda: stub.Create(pb.CreateRequest(id="l")))[0] is EXISTS
        assert [lease.id for lease in stub.List(pb.ListRequest(filters=["id==l"])).leases] == ["l"]
        stub.Delete(pb.DeleteRequest(id="l"))
        assert failure(lambda: stub.Delete(pb.DeleteRequest(id="l")))[0] is NOT_FOUND

    def test_resources(self, client: Client) -> None:
        pb, stub = leases_pb2, client.leases
        stub.Create(pb.CreateRequest(id="l"))
        digest = client.put(b"1")
        resource = pb.Resource(id=digest, type="content")
        for _ in range(2):
            stub.AddResource(pb.AddResourceRequest(id="l", resource=resource))
        assert list(stub.ListResources(pb.ListResourcesRequest(id="l")).resources) == [resource]
        stub.DeleteResource(pb.DeleteResourceRequest(id="l", resource=resource))
        assert not stub.ListResources(pb.ListResourcesRequest(id="l")).resources
        wrong = pb.AddResourceRequest(id="l", resource=pb.Resource(id="x", type="nonsense"))
        assert failure(lambda: stub.AddResource(wrong))[0] is INVALID
        absent = pb.AddResourceRequest(id="absent", resource=resource)
        assert failure(lambda: stub.AddResource(absent))[0] is NOT_FOUND

    def test_the_header_adds_what_is_written(self, client: Client) -> None:
        pb, stub = leases_pb2, client.leases
        stub.Create(pb.CreateRequest(id="l"))
        digest = client.under("l").put(b"leased")
        resources = stub.ListResources(pb.ListResourcesRequest(id="l")).resources
        assert digest in [resource.id for resource in resources if resource.type == "content"]
        assert failure(lambda: client.under("absent").put(b"never"))[0] is NOT_FOUND

    def test_a_synchronous_delete_has_collected_when_it_returns(self, client: Client) -> None:
        client.leases.Create(leases_pb2.CreateRequest(id="l"))
        digest = client.under("l").put(b"bytes that only the lease holds")
        client.leases.Delete(leases_pb2.DeleteRequest(id="l", sync=True))
        assert failure(lambda: client.content.Info(content_pb2.InfoRequest(digest=digest)))[0] is NOT_FOUND


def test_a_namespace_is_required(nobody: Client) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: nobody.containers.List(containers_pb2.ListContainersRequest()),
        lambda: nobody.images.List(images_pb2.ListImagesRequest()),
        lambda: nobody.leases.List(leases_pb2.ListRequest()),
        lambda: list(nobody.content.List(content_pb2.ListContentRequest())),
        lambda: nobody.write(content_pb2.WriteContentRequest(ref="r")),
    ]
    for call in calls:
        assert failure(call) == (PRECONDITION, "namespace is required")

"""From a message to a postback: every field that the contract specifies."""

from __future__ import annotations

import io
import json
import re
import secrets
import struct
import threading
import zlib
from contextlib import ExitStack
from typing import Any

from bson import ObjectId
from PIL import Image
from standardwebhooks import Webhook

from pipeline import send_message
from pipeline.clients import aws
from pipeline.job_ids import input_job_id
from tests.acceptance.conftest import Service, World
from tests.acceptance.test_cli import image_pipeline, queues
from tests.support.waiting import wait_for

RED, BLUE = (220, 30, 30), (30, 30, 220)


def picture(image_format: str, size: tuple[int, int] = (300, 200), mode: str = "RGB", **save: Any) -> bytes:
    """Return a cover whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    out = io.BytesIO()
    image.convert(mode).save(out, image_format, **save)
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a large size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    beginning = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return beginning + struct.pack(">I", 64) + b"IDAT" + b"\0" * 64


def unique(path: str = "") -> str:
    return f"/{secrets.token_hex(6)}{path}"


def wait_for_post(world: World, path: str, count: int = 1, timeout: float = 120) -> Any:
    posts = wait_for(lambda: (found := world.posted(path)) and len(found) >= count and found, timeout)
    return posts[-1]


def test_raw_json_on_the_fifo_queue_becomes_objects_a_postback_and_a_redirected_message(
    service: Service, world: World
) -> None:
    staged = service.staged_keys()  # left by other tests: bytes of failed sources are kept
    # Given two covers, a redirect queue and a receiver
    jpeg = world.serve(unique("/cover.jpg"), picture("JPEG"))
    png = world.serve(unique("/alpha.png"), picture("PNG", mode="RGBA"))
    redirect = aws.sqs().create_queue(QueueName=f"Channel-{secrets.token_hex(4)}")["QueueUrl"]
    hook = unique("/hook")
    payload = {
        "_id": "5f43a1e2c9d4f7a1b2c3d4e5",
        "image_url": jpeg,
        "itunes_image": png,
        "bucket_name": "Mundo Cristão Podcasts",
        "redirect_queue": redirect.rsplit("/", 1)[-1],
        "postback_url": world.url(hook),
        "anything": {"else": [1, 2.5, None, "ü"]},
    }
    # When a producer puts it on the input queue as producers do today
    sent = aws.sqs().send_message(
        QueueUrl=service.environ["QUEUE_URL"],
        MessageBody=json.dumps(payload),
        MessageGroupId="g",
        MessageDeduplicationId=secrets.token_hex(8),
    )
    post = wait_for_post(world, hook)

    # Then the result is the payload plus each rendition's URL and path,
    base = f"{service.environ['AWS_ENDPOINT_URL']}/{service.environ['S3_BUCKET']}"
    path = "images-resized/MUNDO_CRISTAO_PODCASTS/"
    result = post.body
    for field, extension in (("image_url_info", "jpeg"), ("itunes_image_info", "png")):
        assert set(result[field]) == {"50x50", "250X250", "800x800"}
        ids = set()
        for name, rendition in result[field].items():
            assert set(rendition) == {"url", "bucket_path"}
            assert rendition["bucket_path"] == path
            match = re.fullmatch(
                rf"{re.escape(f'{base}/{path}')}([0-9a-f]{{32}})_{name}\.{extension}", rendition["url"]
            )
            assert match, rendition["url"]
            ids.add(match[1])
        assert len(ids) == 1
    infos = {key: result[key] for key in ("image_url_info", "itunes_image_info")}
    assert result == payload | infos | {"postback_secret_key": "a secret of the test"}

    # the postback's signature is valid,
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-id"] == input_job_id(sent["MessageId"])
    assert Webhook(service.environ["POSTBACK_SIGNING_SECRET"]).verify(post.raw, post.headers) == result

    # the redirected message has the same content without the secret,
    (message,) = wait_for(lambda: service.take_all(redirect))
    assert json.loads(message["body"]) == payload | infos
    assert message["attributes"] == {"job_id": input_job_id(sent["MessageId"])}

    # every object has the size and format of its name, and the contract's headers,
    for field, image_format in (("image_url_info", "JPEG"), ("itunes_image_info", "PNG")):
        for name, rendition in result[field].items():
            key = rendition["url"].removeprefix(f"{base}/")
            found = aws.s3().get_object(Bucket=service.environ["S3_BUCKET"], Key=key)
            assert found["ContentType"] == f"image/{image_format.lower()}"
            assert found["CacheControl"] == "public, max-age=31536000, immutable"
            image = Image.open(io.BytesIO(found["Body"].read()))
            image.load()
            assert image.format == image_format
            assert image.size == tuple(int(side) for side in name.lower().split("x"))
            left, right = (image.convert("RGB").getpixel((x, image.height // 2)) for x in (0, image.width - 1))
            assert all(abs(a - b) < 12 for a, b in zip(left + right, RED + BLUE, strict=True)), (left, right)
            acl = aws.s3().get_object_acl(Bucket=service.environ["S3_BUCKET"], Key=key)
            uris = {(grant["Grantee"].get("URI", ""), grant["Permission"]) for grant in acl["Grants"]}
            assert ("http://acs.amazonaws.com/groups/global/AllUsers", "READ") in uris

    # and staging and the input queue are empty.
    wait_for(lambda: service.staged_keys() <= staged)
    assert not service.take_all(service.environ["QUEUE_URL"])


def test_the_documents_own_example(service: Service, world: World) -> None:
    # Given the example from the running system's document, whose redirect queue does not exist
    hook = unique("/postback")
    image_url = world.serve(unique("/img.png"), picture("PNG"))
    # When it is sent as the document shows
    send_message(
        {
            "_id": ObjectId("5f43a1e2c9d4f7a1b2c3d4e5"),
            "image_url": image_url,
            "bucket_name": "Test Bucket",
            "redirect_queue": "ChannelImages",
            "postback_url": world.url(hook),
        }
    )
    # Then the postback has exactly the fields of the example, and the id as hex digits.
    result = wait_for_post(world, hook).body
    assert list(result) == [
        "_id",
        "image_url",
        "bucket_name",
        "redirect_queue",
        "postback_url",
        "image_url_info",
        "postback_secret_key",
    ]
    assert result["_id"] == "5f43a1e2c9d4f7a1b2c3d4e5"
    assert result["image_url_info"]["50x50"]["bucket_path"] == "images-resized/TEST_BUCKET/"
    assert "/images-resized/TEST_BUCKET/" in result["image_url_info"]["50x50"]["url"]


def test_a_job_sent_with_the_first_actor_has_the_id_of_its_message(service: Service, world: World) -> None:
    hook = unique("/hook")
    url = world.serve(unique("/a.webp"), picture("WEBP"))
    message_id = service.send(
        {"_id": ObjectId("5f43a1e2c9d4f7a1b2c3d4e5"), "image_url": url, "postback_url": world.url(hook)}
    )
    post = wait_for_post(world, hook)
    assert post.headers["webhook-id"] == message_id
    assert post.body["image_url_info"]["250X250"]["url"].endswith("_250X250.webp")
    assert "/images-resized/custom/" in post.body["image_url_info"]["250X250"]["url"]


def test_one_image_failing_never_costs_the_other(service: Service, world: World) -> None:
    hook = unique("/hook")
    good = world.serve(unique("/good.gif"), picture("GIF"))
    send_message(
        {"image_url": world.url("/missing.jpg?token=planted"), "itunes_image": good, "postback_url": world.url(hook)}
    )
    result = wait_for_post(world, hook).body
    assert result["image_url_info"] is None
    assert (result["image_url_error"]["stage"], result["image_url_error"]["code"]) == ("fetch", "http_404")
    assert "planted" not in result["image_url_error"]["message"]
    assert result["itunes_image_info"]["800x800"]["url"].endswith(".gif")
    assert "itunes_image_error" not in result
    (letter,) = wait_for(lambda: service.dead_letters("fetch_dlq"))
    assert letter["attributes"]["stage"] == "fetch"
    assert letter["attributes"]["error_code"] == "http_404"
    assert letter["attributes"]["attempts"] == "1"


def test_the_same_url_twice_is_fetched_and_stored_once(service: Service, world: World) -> None:
    hook, path = unique("/hook"), unique("/same.jpg")
    url = world.serve(path, picture("JPEG"))
    send_message({"image_url": url, "itunes_image": url, "postback_url": world.url(hook)})
    result = wait_for_post(world, hook).body
    assert result["image_url_info"] == result["itunes_image_info"]
    assert world.fetches.count(path) == 1


def test_an_unchanged_cover_is_neither_decoded_nor_uploaded_again(service: Service, world: World) -> None:
    # Given a cover that was published once
    cover = picture("JPEG", (401, 307))
    folder = f"Twice {secrets.token_hex(4)}"
    first, second = unique("/hook"), unique("/hook")
    send_message({"image_url": world.serve(unique(), cover), "bucket_name": folder, "postback_url": world.url(first)})
    before = wait_for_post(world, first).body["image_url_info"]
    # When another URL serves the same bytes
    send_message({"image_url": world.serve(unique(), cover), "bucket_name": folder, "postback_url": world.url(second)})
    post = wait_for_post(world, second)
    # Then the URLs are the same, and the job skipped resize and upload.
    assert post.body["image_url_info"] == before
    job = post.headers["webhook-id"]
    stages = lambda: set(re.findall(rf"stage=(\w+) job={job} outcome=done", service.log))  # noqa: E731
    wait_for(lambda: "notify" in stages())
    assert stages() == {"fetch", "notify"}


def test_a_postback_that_fails_is_retried_alone_with_the_same_id_and_body(service: Service, world: World) -> None:
    # Given a receiver that answers 500, 302 and then 204, and a redirect queue
    hook, path = unique("/hook"), unique("/once.jpg")
    world.answers[hook] = [500, 302]
    redirect = aws.sqs().create_queue(QueueName=f"R-{secrets.token_hex(4)}.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    url = world.serve(path, picture("JPEG"))
    send_message({"image_url": url, "postback_url": world.url(hook), "redirect_queue": redirect.rsplit("/", 1)[-1]})
    # When the third attempt succeeds
    wait_for_post(world, hook, count=3)
    posts = world.posted(hook)
    # Then all attempts sent the same message, and the image was fetched and redirected once.
    assert len({(post.headers["webhook-id"], post.raw) for post in posts}) == 1
    assert world.fetches.count(path) == 1
    (message,) = service.take_all(redirect)
    assert message["attributes"]["job_id"] == posts[0].headers["webhook-id"]
    assert not service.dead_letters("notify_dlq")


def test_a_failed_postback_is_a_dead_letter_and_410_is_not_retried(service: Service, world: World) -> None:
    gone, down = unique("/gone"), unique("/down")
    world.answers[gone], world.answers[down] = [410], [500, 500, 500, 500]
    for hook in (gone, down):
        send_message({"image_url": world.serve(unique(), picture("JPEG")), "postback_url": world.url(hook)})
    letters: list[Any] = []
    wait_for(lambda: letters.extend(service.dead_letters("notify_dlq")) or len(letters) == 2)
    reasons = {(letter["attributes"]["error_code"], letter["attributes"]["attempts"]) for letter in letters}
    assert reasons == {("http_410", "1"), ("http_500", "3")}
    assert (len(world.posted(gone)), len(world.posted(down))) == (1, 3)


def test_a_source_that_is_down_is_retried_and_given_up_with_a_result(service: Service, world: World) -> None:
    hook, path = unique("/hook"), unique("/down.jpg")
    send_message({"image_url": world.serve(path, b"busy", status=503), "postback_url": world.url(hook)})
    result = wait_for_post(world, hook).body
    assert (result["image_url_error"]["stage"], result["image_url_error"]["code"]) == ("fetch", "http_503")
    assert world.fetches.count(path) == 3
    (letter,) = wait_for(lambda: service.dead_letters("fetch_dlq"))
    assert letter["attributes"]["attempts"] == "3"
    assert letter["attributes"]["first_at"] < letter["attributes"]["last_at"]


def test_a_payload_over_64_kib_is_kept_in_staging(service: Service, world: World) -> None:
    bucket, hook = service.environ["S3_BUCKET"], unique("/hook")

    def staged() -> set[str]:
        listed = aws.s3().list_objects_v2(Bucket=bucket, Prefix="pipeline-staging/")
        return {found["Key"] for found in listed.get("Contents", [])}

    before = staged()
    big = {"notes": "x" * 200_000}
    send_message({**big, "image_url": world.serve(unique(), picture("JPEG")), "postback_url": world.url(hook)})
    assert wait_for_post(world, hook).body["notes"] == big["notes"]
    # Then only the payload stays, once the image's bytes are deleted.
    wait_for(lambda: len(staged() - before) == 1)
    aws.s3().delete_object(Bucket=bucket, Key=(staged() - before).pop())


def test_twenty_messages_with_every_kind_of_bad_input_mixed_in(service: Service, world: World) -> None:
    # Given twenty messages: eleven good ones, and one for each kind of bad input
    hook = unique("/hook")
    answer = {"postback_url": world.url(hook)}
    good = [
        {**answer, "n": n, "image_url": world.serve(unique(f"/{n}.jpg"), picture("JPEG", (200 + n, 200)))}
        for n in range(11)
    ]
    bad_images = {
        "http_404": world.url("/nowhere.jpg"),
        "not_an_image": world.serve(unique("/page.jpg"), b"<html><body>hello</body></html>"),
        "broken_image": world.serve(unique("/cut.jpg"), picture("JPEG", (900, 900))[:2000]),
        "too_large": world.serve(unique("/huge.png"), png_of(65_536, 65_536)),
        "blocked_address": "http://10.0.0.1/cover.jpg",
        "bad_url": "file:///etc/passwd",
    }
    bad_messages = {
        "not_json": "{this is no JSON",
        "no_image": json.dumps(answer),
        "no_destination": json.dumps({"image_url": "http://a.example/b.jpg"}),
    }
    bodies = [*map(json.dumps, good), *bad_messages.values()]
    bodies += [json.dumps({**answer, "code": code, "image_url": url}) for code, url in bad_images.items()]
    assert len(bodies) == 20
    pids = {name: service.supervisor.pid(name) for name in service.supervisor.names}
    # When they are put on the queue in mixed order
    for body in sorted(bodies, key=hash):
        aws.sqs().send_message(
            QueueUrl=service.environ["QUEUE_URL"],
            MessageBody=body,
            MessageGroupId=secrets.token_hex(8),
            MessageDeduplicationId=secrets.token_hex(8),
        )
    # Then every good message succeeds, every bad image is reported with its code,
    wait_for_post(world, hook, count=17)
    results = [post.body for post in world.posted(hook)]
    assert sorted(result["n"] for result in results if result["image_url_info"]) == list(range(11))
    failed = {result["code"]: result["image_url_error"]["code"] for result in results if not result["image_url_info"]}
    assert failed == {code: code for code in bad_images}
    # every bad message is in a dead-letter queue with its reason,
    letters: list[Any] = []
    wait_for(
        lambda: (
            letters.extend(
                letter for queue in ("ingest_dlq", "fetch_dlq", "resize_dlq") for letter in service.dead_letters(queue)
            )
            or len(letters) >= 9
        )
    )
    assert sorted(letter["attributes"]["error_code"] for letter in letters) == sorted([*bad_messages, *bad_images])
    # and no stage was restarted.
    assert pids == {name: service.supervisor.pid(name) for name in service.supervisor.names}
    assert not world.posted(hook)[17:]


def test_submit_waits_and_shows_how_each_job_ended(service: Service, world: World) -> None:
    # Given a good cover and a missing cover
    cover, none = world.serve("/cli/cover.png", picture("PNG")), world.url("/cli/none.png")
    # When both are submitted with --wait
    urls = [f"{cover}?token=SECRET", none]
    done = image_pipeline("submit", *urls, "--folder", "A b", "--wait", environ=service.environ)
    # Then the output has the URLs and the error, without control codes, and the status reports the failure
    assert done.returncode == 1, done.stderr
    assert "\x1b" not in done.stdout
    assert "SECRET" not in done.stdout
    for size in ("50x50", "250X250", "800x800"):
        assert re.search(rf"  {size} +http://\S+/images-resized/A_B/[0-9a-f]{{32}}_{size}\.png\n", done.stdout)
    assert f"http_404 in fetch: {none.removeprefix('http://')} answered 404" in done.stdout
    assert "1 done, 1 failed" in done.stdout
    (letter,) = wait_for(lambda: service.dead_letters("fetch_dlq"))
    assert letter["attributes"]["error_code"] == "http_404"
    # And the queue that was created for the results is deleted
    assert not queues(service.environ, "_submit")

    # When a file is sent straight to the fetch stage, with results as JSON lines
    direct = service.environ | {"QUEUE_URL": ""}
    lines = "".join(json.dumps({"itunes_image": f"{cover}?{n}", "n": n}) + "\n\n" for n in range(3))
    done = image_pipeline("submit", "--file", "-", "--wait", "--json", environ=direct, stdin=lines)
    # Then each job is printed twice: when it was sent, and how it ended
    assert done.returncode == 0, done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["status"] for each in printed] == ["sent"] * 3 + ["done"] * 3
    assert {each["job_id"] for each in printed[:3]} == {each["job_id"] for each in printed[3:]}
    assert sorted(each["result"]["n"] for each in printed[3:]) == [0, 1, 2]
    assert all(set(each["result"]["itunes_image_info"]) == {"50x50", "250X250", "800x800"} for each in printed[3:])


def test_no_secret_and_no_query_is_in_any_log(service: Service, world: World) -> None:
    hook = unique("/hook")
    url = world.serve(unique("/secret.jpg"), picture("JPEG", (91, 97))) + "?token=planted-token"  # rendered only here
    url = url.replace("http://", "http://user:planted-password@")
    send_message({"image_url": url, "body": "planted-body", "postback_url": world.url(hook) + "?key=planted-key"})
    post = wait_for(lambda: next((post for post in world.posts if post.path.startswith(hook)), None))
    # Then every stage has logged the job, without any of the secrets.
    job_id = post.headers["webhook-id"]
    for stage in ("fetch", "resize", "upload", "notify"):
        wait_for(lambda stage=stage: any(job_id in line for name, line in service.lines if name.startswith(stage)))
    for secret in ("planted", "a secret of the test", service.environ["POSTBACK_SIGNING_SECRET"]):
        assert secret not in service.log


def test_sigterm_in_the_middle_of_work_loses_nothing(service: Service, world: World) -> None:
    # Given forty jobs: some done, some in progress, some waiting
    hook, folder = unique("/hook"), secrets.token_hex(4)
    cover = picture("JPEG", (2000, 2000))
    staged = service.staged()
    with ExitStack() as delayed:
        for n in range(40):
            path = unique(f"/{n}.jpg")
            if n >= 20:  # these sources answer only when all processes are stopping
                delayed.enter_context(world.delaying(path))
            url = world.serve(path, cover + bytes([n]))
            send_message({"n": n, "image_url": url, "bucket_name": folder, "postback_url": world.url(hook)})
        wait_for_post(world, hook, count=3)
        # When every process is stopped and started again
        stopping = threading.Thread(target=service.supervisor.stop)
        stopping.start()
        wait_for(lambda: service.supervisor.pid("ingest.1") is None)
    stopping.join()
    assert len(world.posted(hook)) < 40
    service.supervisor.start()
    # Then every job succeeds.
    posted = lambda: {post.body["n"]: post for post in world.posted(hook)}  # noqa: E731
    wait_for(lambda: len(posted()) == 40, timeout=180)
    assert all(post.body["image_url_info"] for post in posted().values())
    assert len({post.headers["webhook-id"] for post in world.posted(hook)}) == 40
    for stage in ("fetch", "resize", "upload", "notify"):
        wait_for(lambda stage=stage: service.counts(stage) == (0, 0, 0), timeout=60)
        assert not service.dead_letters(f"{stage}_dlq")
    wait_for(lambda: service.staged() == staged)

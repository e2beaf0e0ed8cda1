<?php
// Receives postbacks: `php -S 127.0.0.1:8000 receiver.php`.
// The types are those of docs/schema/postback.json, as far as they are used.

declare(strict_types=1);

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'; // POSTBACK_SIGNING_SECRET
const TOLERANCE = 300; // seconds

final class Rendition
{
    public function __construct(public readonly string $url, public readonly string $bucket_path, mixed ...$more)
    {
    }
}

final class ImageError
{
    public function __construct(
        public readonly string $stage,
        public readonly string $code,
        public readonly string $message,
        mixed ...$more,
    ) {
    }
}

function is_signed(string $id, string $timestamp, string $signatures, string $body): bool
{
    if (!preg_match('/^\d{1,12}$/D', $timestamp) || abs(time() - (int) $timestamp) > TOLERANCE) {
        return false;
    }
    $key = base64_decode(substr(SECRET, strlen('whsec_')), true);
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
    foreach (explode(' ', $signatures) as $signature) {
        if (hash_equals($expected, $signature)) { // in constant time
            return true;
        }
    }
    return false;
}

/**
 * @param ?array<string, array<string, mixed>> $info
 * @param ?array<string, string> $error
 */
function work(string $id, ?array $info, ?array $error): void
{
    foreach ($info ?? [] as $name => $fields) {
        $rendition = new Rendition(...$fields);
        file_put_contents('php://stdout', "$id $name {$rendition->url}\n");
    }
    if ($error !== null) {
        $why = new ImageError(...$error);
        file_put_contents('php://stdout', "$id {$why->code} {$why->message}\n");
    }
}

$body = file_get_contents('php://input'); // as received: parsing and writing it again would break the signature
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
if (!is_signed($id, $timestamp, $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '', $body)) {
    http_response_code(401);
    return true;
}
$seen = sys_get_temp_dir() . '/seen-' . hash('sha256', $id); // in production: a unique key in your database
if (!file_exists($seen)) {
    $postback = json_decode($body, true, flags: JSON_THROW_ON_ERROR);
    work($id, $postback['image_url_info'] ?? null, $postback['image_url_error'] ?? null);
    work($id, $postback['itunes_image_info'] ?? null, $postback['itunes_image_error'] ?? null);
    touch($seen); // in production: in one transaction with the work
}
http_response_code(204); // for repeats too: any other answer is retried
return true;

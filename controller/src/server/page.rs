//! The page at `/`: says what this is, to whoever comes by with a browser.

use axum::Router;
use axum::response::Html;
use axum::routing::get;

/// The page's route.
pub fn router() -> Router {
    Router::new().route("/", get(|| async { Html(PAGE) }))
}

const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Muster</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}code{background:#8882}</style>
<h1>Muster</h1>
<p>This is a Muster controller: it turns x86 machines into managed ones without installing anything on them.</p>
<ul>
<li>Operators: <code>muster machine list</code>, or the API at <a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>.</li>
<li>Cycle: the Infrastructure Abstraction Layer is at <code>/v1/</code>; <a href=\"/v1/openapi.json\">/v1/openapi.json</a> describes it.</li>
<li>Machines boot from here where their ISO asks by HTTPS, and from the HTTP port, 8080 unless it was configured otherwise.</li>
</ul>
";

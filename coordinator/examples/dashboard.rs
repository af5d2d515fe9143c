//! Serves the dashboard over an invented campaign in the middle, to work on the pages without running one:
//! `cargo run -p coordinator --example dashboard [ADDR:PORT] [DATABASE]`. With a database, serves the pages over that one,
//! without images.
#![allow(clippy::unwrap_used)]

#[path = "../tests/pages_fixture/mod.rs"]
mod pages_fixture;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use coordinator::dashboard;
use image::imageops;
use pages_fixture::Fixture;
use protocol::ids::Digest;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use tokio::sync::watch;

#[tokio::main]
async fn main() {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7312".to_owned());
    if let Some(database) = std::env::args().nth(2) {
        let reader = coordinator::queue::view::open(database.as_ref()).await.unwrap();
        let (_changed, changes) = watch::channel(1_u64);
        let listener = tokio::net::TcpListener::bind(&listen).await.unwrap();
        println!("http://{listen}/");
        return axum::serve(listener, dashboard::router(dashboard::State { reader, changes })).await.unwrap();
    }
    let sheet = image::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../miniature/guided.png")).unwrap().into_rgb8();
    let mut images = BTreeMap::new();
    let fixture = Fixture::campaign(|region, seed| {
        // The sheet holds 10 × 5 images of 128 pixels, 8 pixels apart.
        let (left, top) = (136 * (seed as u32 % 10), 136 * region as u32);
        let mut tile = imageops::crop_imm(&sheet, left, top, 128, 128).to_image();
        tile.put_pixel(0, 0, image::Rgb([seed as u8, 0, 0]));
        let mut png = Cursor::new(Vec::new());
        tile.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let png = png.into_inner();
        let digest = Digest::from_bytes(&sha2::Sha256::digest(&png).into());
        images.insert(digest.to_string(), png);
        digest
    })
    .await;
    // The campaign's time is fixed: bring it to today.
    let late = coordinator::queue::view::moment::now() - pages_fixture::NOW;
    for update in [
        "UPDATE worker SET heartbeat_at = heartbeat_at + ?1, registered_at = registered_at + ?1",
        "UPDATE attempt SET started_at = started_at + ?1, ended_at = ended_at + ?1",
        "UPDATE result SET created_at = created_at + ?1",
        "UPDATE failure SET last_at = last_at + ?1",
        "UPDATE job SET lease_until = lease_until + ?1, updated_at = updated_at + ?1, \
         not_before = iif(not_before > 0, not_before + ?1, 0)",
    ] {
        fixture.run(update, |q| q.bind(late)).await;
    }

    let images = Arc::new(images);
    let serve_image = move |Path(sha256): Path<String>| {
        let images = images.clone();
        async move {
            match images.get(&sha256) {
                Some(png) => ([(header::CONTENT_TYPE, "image/png")], png.clone()).into_response(),
                None => StatusCode::NOT_FOUND.into_response() as Response,
            }
        }
    };
    let (changed, changes) = watch::channel(1_u64);
    let app = dashboard::router(dashboard::State { reader: fixture.reader.clone(), changes })
        .route("/api/v1/artifacts/{sha256}", get(serve_image));
    let listener = tokio::net::TcpListener::bind(&listen).await.unwrap();
    println!("http://{listen}/ — a running job makes a step each second; stop with Ctrl-C");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => {
                fixture.run("UPDATE job SET step = (step + 1) % 50 WHERE state = 'running'", |q| q).await;
                let heard = coordinator::queue::view::moment::now();
                fixture.run("UPDATE worker SET heartbeat_at = ? WHERE heartbeat_at < ?", |q| q.bind(heard).bind(heard - 15_000)).await;
                changed.send_modify(|version| *version += 1);
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
}

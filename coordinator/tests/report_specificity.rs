//! The science table and the contact sheet of a campaign in the middle.
#![allow(clippy::unwrap_used)]

mod pages_fixture;

use coordinator::queue::view::Snapshot;
use coordinator::report::contact_sheet::{self, CELL, ContactSheetError, GAP};
use coordinator::report::specificity::{self, Pool};
use image::{Rgb, RgbImage};
use pages_fixture::{Fixture, NOW, digest};
use protocol::ids::ExperimentId;
use std::io::Cursor;

async fn campaign() -> Fixture {
    Fixture::campaign(|region, seed| digest(&format!("image {region} {seed}"))).await
}

#[tokio::test]
async fn the_table_counts_every_image_once_and_joins_guided_to_unguided() {
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let table = specificity::read(&mut snapshot, ExperimentId(1)).await.unwrap();
    assert_eq!(table.len(), 10);
    for row in &table {
        assert_eq!(row.images, 12);
        assert_eq!(row.classes.iter().map(|(_, images)| images).sum::<u64>(), 12);
    }
    let pairs = specificity::pairs(&table);
    assert_eq!(pairs.len(), 5);
    for pair in &pairs {
        assert_eq!(pair.guided.condition.region, pair.unguided.condition.region);
        assert_eq!((pair.guided.gamma, pair.unguided.gamma), (14.0, 0.0));
        assert_eq!(pair.guided.in_preferred().unwrap().hits, 10, "two of twelve seeds miss");
    }
    let (sum, images): (f64, u64) =
        sqlx::query_as("SELECT sum(activation), count(*) FROM result WHERE condition_id = 1")
            .fetch_one(&fixture.reader)
            .await
            .unwrap();
    assert!((table[0].mean_activation().unwrap() - sum / images as f64).abs() < 1e-12);
    let pool = Pool::of(pairs.iter().map(|pair| pair.guided));
    assert_eq!(pool.in_preferred.map(|p| (p.hits, p.of)), Some((50, 60)));
}

#[tokio::test]
async fn the_contact_sheet_has_a_row_per_guided_region_with_the_best_image_first() {
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let best = snapshot.top_of(protocol::ids::ConditionId(1), 1).await.unwrap()[0].sha256.clone();
    let red = Rgb([200, 0, 0]);
    let png = |color: Rgb<u8>| {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(32, 32, color).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let fetch = |digest: &_| Ok(if *digest == best { png(red) } else { png(Rgb([0, 0, 200])) });
    let rows = contact_sheet::read(&mut snapshot, ExperimentId(1), 10, fetch).await.unwrap();
    let labels: Vec<_> = rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!(labels, ["face", "body", "scene", "food", "text"]);

    let path = fixture.path.with_file_name("sheet.png");
    contact_sheet::write(&rows, &path).unwrap();
    let sheet = image::open(&path).unwrap().into_rgb8();
    let left = sheet.width() - 10 * (CELL + GAP);
    assert_eq!(sheet.height(), GAP + 5 * (CELL + GAP));
    assert_eq!(*sheet.get_pixel(left, GAP), red, "the first cell is the best image, enlarged threefold");
    assert_eq!(*sheet.get_pixel(left + CELL - 1, GAP + CELL - 1), red);
    assert_eq!(*sheet.get_pixel(left + CELL, GAP), Rgb([255, 255, 255]), "a gap parts the cells");
    let ink =
        (0..left).flat_map(|x| (0..CELL).map(move |y| (x, y))).filter(|&(x, y)| sheet.get_pixel(x, y + GAP)[0] < 80);
    assert!(ink.count() > 100, "the label is drawn");
}

#[tokio::test]
async fn a_contact_sheet_without_images_or_with_a_lost_image_says_so() {
    assert!(matches!(contact_sheet::draw(&[]), Err(ContactSheetError::Empty)));
    let fixture = campaign().await;
    let mut snapshot = Snapshot::at(&fixture.reader, NOW).await.unwrap();
    let gone = |_: &_| Err(std::io::ErrorKind::NotFound.into());
    let error = contact_sheet::read(&mut snapshot, ExperimentId(1), 10, gone).await.unwrap_err();
    assert!(error.to_string().contains("artifact store"), "{error}");
}

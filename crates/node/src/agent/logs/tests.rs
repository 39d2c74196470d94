use std::fs::{rename, write};
use std::path::Path;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use mainstay_runtime::Tasks;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::agent::notices::Notices;

fn entry(second: u32, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z {stream} {tag} {text}\n")
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

async fn whole(dir: &Path, options: LogOptions) -> String {
    let stream = read(dir.to_owned(), &options, None).unwrap();
    let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

/// Three files: lines 0..3, 3..6 (4 in two pieces), 6..8.
fn three_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let line = |number: u32| entry(number, "stdout", "F", &format!("line {number}"));
    write(dir.path().join("2.log"), (0..3).map(line).collect::<String>()).unwrap();
    let pieces = entry(4, "stdout", "P", "line ") + &entry(4, "stdout", "F", "4");
    write(dir.path().join("1.log"), line(3) + &pieces + &line(5)).unwrap();
    write(dir.path().join("0.log"), (6..8).map(line).collect::<String>()).unwrap();
    dir
}

fn lines(from: u32, to: u32) -> String {
    let lines: Vec<_> = (from..to).map(|number| format!("line {number}\n")).collect();
    lines.concat()
}

#[tokio::test]
async fn a_log_is_read_whole_from_its_tail_or_from_a_time() {
    let dir = three_files();
    let dir = dir.path();
    assert_eq!(whole(dir, LogOptions::default()).await, lines(0, 8));
    for (tail, from) in [(0, 8), (1, 7), (2, 6), (4, 4), (5, 3), (6, 2), (8, 0), (u64::MAX, 0)] {
        let options = LogOptions { tail_lines: Some(tail), ..LogOptions::default() };
        assert_eq!(whole(dir, options).await, lines(from, 8), "tail {tail}");
    }
    let since = Some("2026-01-01T00:00:05Z".parse().unwrap());
    assert_eq!(whole(dir, LogOptions { since, ..LogOptions::default() }).await, lines(5, 8));
    let limited = LogOptions { limit_bytes: Some(10), ..LogOptions::default() };
    assert_eq!(whole(dir, limited).await, "line 0\nlin");
    let stamped = LogOptions { timestamps: true, tail_lines: Some(4), ..LogOptions::default() };
    let text = whole(dir, stamped).await;
    assert!(text.starts_with("2026-01-01T00:00:04.000000000Z line 4\n2026-01-01T00:00:05."), "{text}");
}

#[tokio::test]
async fn an_empty_log_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(whole(dir.path(), LogOptions::default()).await, "");
    assert_eq!(whole(dir.path(), LogOptions { tail_lines: Some(3), ..LogOptions::default() }).await, "");
}

#[tokio::test]
async fn following_crosses_rotation_and_ends_with_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let path = |number: u32| dir.path().join(format!("{number}.log"));
    let tasks = Tasks::new();
    let notices = Notices::start(&tasks).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    append(&path(0), &entry(0, "stdout", "F", "line 0"));
    let following = Following { watch: notices.watch(dir.path()).unwrap(), ended: ended.map(|_| ()).boxed() };
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = read(dir.path().to_owned(), &options, Some(following)).unwrap();
    let mut seen = String::new();
    for number in 0..40 {
        while seen != lines(0, number + 1) {
            let chunk = timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap().unwrap();
            seen.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        if number % 3 == 2 {
            // As the shim does it: the oldest goes, the others move on, the newest is made anew.
            rename(path(1), path(2)).ok();
            rename(path(0), path(1)).unwrap();
        }
        append(&path(0), &entry(1, "stdout", "F", &format!("line {}", number + 1)));
    }
    append(&path(0), &entry(1, "stderr", "F", "last"));
    end.send(()).unwrap();
    let rest: Vec<_> = timeout(Duration::from_secs(10), stream.collect()).await.unwrap();
    let rest: Vec<u8> = rest.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
    assert_eq!(seen + std::str::from_utf8(&rest).unwrap(), lines(0, 41) + "last\n");
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

//! Files and names, on both arms.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::rc::Rc;

use super::pattern;
use crate::{BLOCK, Class, Env, OpenOptions};

conformance! {
    direct_durable_writes_read_back,
    reads_of_any_alignment,
    buffered_files,
    positions_must_be_aligned,
    truncate_and_size,
    parts_are_written_in_order,
    zero_fill_grows_and_clears,
    opening_what_is_not_there,
    names,
    atomic_files,
    whole_files_have_a_limit,
    space,
}

const DIRECT: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: true,
    direct: true,
    durable: true,
};

async fn direct_durable_writes_read_back(env: Env, dir: PathBuf) {
    let path = dir.join("a.log");
    let file = env.open(&path, &DIRECT).await.unwrap();
    let mut buf = env.alloc(3 * BLOCK);
    assert_eq!(buf.len(), 3 * BLOCK);
    buf.copy_from_slice(&pattern(3 * BLOCK, 1));
    let frozen = file.write_at(buf, BLOCK as u64).await.unwrap();
    assert_eq!(frozen[..], pattern(3 * BLOCK, 1)[..]);
    assert_eq!(file.size().await.unwrap(), 4 * BLOCK as u64);
    let back = file.read_at(0, 10 * BLOCK).await.unwrap();
    assert_eq!(back.len(), 4 * BLOCK);
    assert!(back[..BLOCK].iter().all(|&b| b == 0));
    assert_eq!(back[BLOCK..], pattern(3 * BLOCK, 1)[..]);

    // Many in flight at once, and one that rewrites a block.
    let writes: Vec<_> = (0..16u8).collect();
    let file = Rc::new(file);
    let mut tasks = Vec::new();
    for i in writes {
        let (e, f) = (env.clone(), file.clone());
        tasks.push(env.spawn(Class::Latency, async move {
            let mut buf = e.alloc(BLOCK);
            buf.fill(i);
            f.write_at(buf, u64::from(i) * BLOCK as u64).await.unwrap();
        }));
    }
    for task in tasks {
        task.await;
    }
    let back = file.read_at(0, 16 * BLOCK).await.unwrap();
    for (i, block) in back.chunks(BLOCK).enumerate() {
        assert!(block.iter().all(|&b| b == i as u8));
    }
    let file = Rc::try_unwrap(file).ok().unwrap();
    file.close().await.unwrap();
}

async fn reads_of_any_alignment(env: Env, dir: PathBuf) {
    let all = pattern(5 * BLOCK, 9);
    let path = dir.join("r");
    let file = env.open(&path, &DIRECT).await.unwrap();
    let mut buf = env.alloc(all.len());
    buf.copy_from_slice(&all);
    file.write_at(buf, 0).await.unwrap();
    file.truncate(all.len() as u64 - 100).await.unwrap();
    let end = all.len() - 100;
    let plain = env.open(&path, &OpenOptions::new()).await.unwrap();
    for (pos, len) in [
        (0, 1),
        (1, 1),
        (4095, 2),
        (4096, 4096),
        (5000, 12_000),
        (end - 1, 1),
        (end - 1, 500),
        (end, 10),
        (end + 5000, 10),
        (0, 1 << 30),
        (77, 0),
    ] {
        let want = &all[pos.min(end)..(pos + len).min(end).max(pos.min(end))];
        for f in [&file, &plain] {
            let got = f.read_at(pos as u64, len).await.unwrap();
            assert_eq!(got[..], *want, "{len} bytes at {pos}");
        }
    }
}

async fn buffered_files(env: Env, dir: PathBuf) {
    let path = dir.join("b");
    let file = env.open(&path, &OpenOptions::new().create()).await.unwrap();
    file.write_plain(b"hello world".to_vec(), 0).await.unwrap();
    file.write_plain(b"W".to_vec(), 6).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(file.read_at(0, 100).await.unwrap()[..], b"hello World"[..]);
    let mut buf = env.alloc(BLOCK);
    buf.fill(3);
    let frozen = file.write_at(buf, BLOCK as u64).await.unwrap();
    assert_eq!(file.read_at(BLOCK as u64, BLOCK).await.unwrap(), frozen);
    assert_eq!(file.size().await.unwrap(), 2 * BLOCK as u64);
    // Rename: the open file goes on under its new name.
    let to = dir.join("b2");
    env.rename(&path, &to).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 2 * BLOCK as u64);
    file.write_plain(b"J".to_vec(), 0).await.unwrap();
    file.close().await.unwrap();
    assert_eq!(
        env.read_file(&to, 1 << 20).await.unwrap()[..5],
        b"Jello"[..]
    );
}

async fn positions_must_be_aligned(env: Env, dir: PathBuf) {
    let file = env.open(&dir.join("x"), &DIRECT).await.unwrap();
    let e = file.write_at(env.alloc(1), 100).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    let e = file.zero_fill(0, 100).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

async fn truncate_and_size(env: Env, dir: PathBuf) {
    let file = env.open(&dir.join("t"), &DIRECT).await.unwrap();
    let mut buf = env.alloc(2 * BLOCK);
    buf.fill(8);
    file.write_at(buf, 0).await.unwrap();
    file.truncate(5000).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 5000);
    file.truncate(10_000).await.unwrap();
    file.sync().await.unwrap();
    let back = file.read_at(0, 20_000).await.unwrap();
    assert_eq!(back.len(), 10_000);
    assert!(back[..5000].iter().all(|&b| b == 8));
    assert!(
        back[5000..].iter().all(|&b| b == 0),
        "what was cut off reads as zeros"
    );
}

async fn parts_are_written_in_order(env: Env, dir: PathBuf) {
    let options = OpenOptions::new().create().direct();
    let file = env.open(&dir.join("parts"), &options).await.unwrap();
    let part = |byte: u8, blocks: usize| {
        let mut buf = env.alloc(blocks * BLOCK);
        buf.fill(byte);
        buf.freeze()
    };
    let whole = part(4, 3);
    let parts = vec![part(1, 1), part(2, 2), whole.slice(BLOCK..2 * BLOCK)];
    file.write_parts(parts, BLOCK as u64).await.unwrap();
    let bytes = file.read_at(BLOCK as u64, 5 * BLOCK).await.unwrap();
    let blocks: Vec<u8> = bytes.chunks(BLOCK).map(|b| b[7]).collect();
    assert_eq!(blocks, [1, 2, 2, 4]);
    assert!(bytes.chunks(BLOCK).all(|b| b.iter().all(|&x| x == b[0])));
    for bad in [whole.slice(..100), whole.slice(8..BLOCK + 8)] {
        let e = file.write_parts(vec![bad], 0).await.unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::InvalidInput);
    }
    let many = vec![part(1, 1); crate::file::PARTS_MAX + 1];
    assert!(file.write_parts(many, 0).await.is_err());
    file.write_parts(Vec::new(), 0).await.unwrap();
}

async fn zero_fill_grows_and_clears(env: Env, dir: PathBuf) {
    let file = env.open(&dir.join("z"), &DIRECT).await.unwrap();
    let mut buf = env.alloc(4 * BLOCK);
    buf.fill(0xff);
    file.write_at(buf, 0).await.unwrap();
    file.zero_fill(BLOCK as u64, 600 * BLOCK as u64)
        .await
        .unwrap();
    assert_eq!(file.size().await.unwrap(), 601 * BLOCK as u64);
    let back = file.read_at(0, 1 << 24).await.unwrap();
    assert!(back[..BLOCK].iter().all(|&b| b == 0xff));
    assert!(back[BLOCK..].iter().all(|&b| b == 0));
    assert_eq!(back.len(), 601 * BLOCK);
    file.zero_fill(0, 0).await.unwrap();
}

async fn opening_what_is_not_there(env: Env, dir: PathBuf) {
    let missing = dir.join("missing");
    let read = OpenOptions::new();
    for options in [
        read,
        read.direct(),
        read.write(),
        read.write().direct().durable(),
    ] {
        let e = env.open(&missing, &options).await.err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{options:?}");
    }
    let e = env.open(&missing.join("x"), &DIRECT).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert_eq!(
        env.remove_file(&missing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        env.list_dir(&missing).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        env.rename(&missing, &dir.join("y"))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    let file = env.open(&dir.join("w"), &read.create()).await.unwrap();
    drop(file);
    let file = env.open(&dir.join("w"), &read).await.unwrap();
    assert!(
        file.write_plain(vec![1], 0).await.is_err(),
        "opened for reading only"
    );
}

async fn names(env: Env, dir: PathBuf) {
    let deep = dir.join("a/b/c");
    env.create_dir_all(&deep).await.unwrap();
    env.create_dir_all(&deep).await.unwrap();
    for name in ["2", "10", "1"] {
        let file = env
            .open(&deep.join(name), &OpenOptions::new().create())
            .await
            .unwrap();
        file.write_plain(vec![0; name.len()], 0).await.unwrap();
    }
    env.create_dir_all(&deep.join("sub")).await.unwrap();
    env.sync_dir(&deep).await.unwrap();
    let list: Vec<_> = env.list_dir(&deep).await.unwrap();
    let got: Vec<_> = list
        .iter()
        .map(|e| (e.name.as_str(), e.is_dir, e.len))
        .collect();
    assert_eq!(
        got,
        [
            ("1", false, 1),
            ("10", false, 2),
            ("2", false, 1),
            ("sub", true, 0)
        ]
    );
    assert_eq!(env.list_dirs(&deep).await.unwrap(), ["sub"]);
    let two = vec![
        (deep.join("1"), b"one".to_vec()),
        (deep.join("sub/new"), vec![]),
    ];
    let all = env.file_system(&dir).await.unwrap();
    all.replace_files(two).await.unwrap();
    assert_eq!(env.read_file(&deep.join("1"), 3).await.unwrap(), b"one");
    assert!(env.list_dir(&deep.join("sub")).await.unwrap().len() == 1);
    env.remove_file(&deep.join("sub/new")).await.unwrap();
    all.sync().await.unwrap();
    env.rename(&deep.join("1"), &deep.join("2")).await.unwrap();
    env.remove_file(&deep.join("10")).await.unwrap();
    env.rename(&deep, &dir.join("a/moved")).await.unwrap();
    let list = env.list_dir(&dir.join("a/moved")).await.unwrap();
    let got: Vec<_> = list.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(got, ["2", "sub"]);
    env.remove_dir_all(&dir.join("a")).await.unwrap();
    assert_eq!(
        env.list_dir(&deep).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

async fn atomic_files(env: Env, dir: PathBuf) {
    let path = dir.join("state");
    env.write_file_atomic(&path, b"one, and long".to_vec())
        .await
        .unwrap();
    env.write_file_atomic(&path, b"two".to_vec()).await.unwrap();
    assert_eq!(env.read_file(&path, 100).await.unwrap(), b"two");
    let names = env.list_dir(&dir).await.unwrap();
    assert!(!names.iter().any(|e| e.name.ends_with(".tmp")), "{names:?}");
}

async fn whole_files_have_a_limit(env: Env, dir: PathBuf) {
    let path = dir.join("f");
    env.write_file_atomic(&path, vec![1; 100]).await.unwrap();
    assert_eq!(env.read_file(&path, 100).await.unwrap().len(), 100);
    let e = env.read_file(&path, 99).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
}

async fn space(env: Env, dir: PathBuf) {
    let space = env.disk_space(&dir).await.unwrap();
    assert!(space.total >= space.free && space.free > 0, "{space:?}");
}

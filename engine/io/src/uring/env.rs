//! The kernel arm of `Env`.

use std::fs;
use std::future::Future;
use std::io;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use streamd_model::Mono;

use super::net;
use super::shard::{Shard, clock_ns};
use crate::env::{Class, DirEntry, DiskSpace, Stats};
use crate::file::{self, OpenOptions};
use crate::local;
use crate::stream::{self, AcceptedKind};
use crate::task::{self, Task};

#[derive(Clone)]
pub(crate) struct Env(Rc<Shard>);

impl Env {
    pub(super) fn new(shard: Rc<Shard>) -> Env {
        Env(shard)
    }

    pub(crate) fn now(&self) -> Mono {
        Mono(clock_ns())
    }

    pub(crate) fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.0.random_u64()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.0.stats()
    }

    pub(crate) async fn sleep(&self, d: Duration) {
        self.0.sleep(d).await;
    }

    pub(crate) async fn yield_now(&self) {
        local::yield_now().await;
    }

    pub(crate) async fn yield_if_needed(&self) {
        self.0.yield_if_needed().await;
    }

    #[track_caller]
    pub(crate) fn spawn<F, T>(&self, class: Class, future: F) -> Task<T>
    where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        let (body, task) = task::new(future);
        self.0.spawn(class, Box::pin(body), Location::caller());
        task
    }

    pub(crate) async fn open(&self, path: &Path, o: &OpenOptions) -> io::Result<file::File> {
        let file = super::File::open(&self.0, path, o).await?;
        Ok(file::File(file::Kind::Uring(file)))
    }

    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.0.pool.run(move || fs::create_dir_all(path)).await
    }

    pub(crate) async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.0.pool.run(move || fs::remove_dir_all(path)).await
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.0.pool.run(move || fs::remove_file(path)).await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.0.pool.run(move || fs::rename(from, to)).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.0
            .pool
            .run(move || fs::File::open(path)?.sync_all())
            .await
    }

    pub(crate) async fn file_system(&self, path: &Path) -> io::Result<FileSystem> {
        let path = path.to_owned();
        let root = self.0.pool.run(move || fs::File::open(path)).await?;
        Ok(FileSystem {
            shard: self.0.clone(),
            root: Arc::new(root),
        })
    }

    pub(crate) async fn list_dirs(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = path.to_owned();
        self.0.pool.run(move || list_dirs(&path)).await
    }

    pub(crate) async fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let path = path.to_owned();
        self.0.pool.run(move || list_dir(&path)).await
    }

    pub(crate) async fn read_file(&self, path: &Path, max: usize) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        self.0.pool.run(move || read_file(&path, max)).await
    }

    pub(crate) async fn write_file_atomic(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let path = path.to_owned();
        self.0
            .pool
            .run(move || write_file_atomic(&path, &bytes))
            .await
    }

    pub(crate) async fn disk_space(&self, path: &Path) -> io::Result<DiskSpace> {
        let path = path.to_owned();
        self.0.pool.run(move || disk_space(&path)).await
    }

    pub(crate) async fn listen(&self, addr: SocketAddr) -> io::Result<stream::Listener> {
        let listener = net::Listener::bind(&self.0, addr)?;
        Ok(stream::Listener(stream::ListenerKind::Uring(listener)))
    }

    pub(crate) fn adopt(&self, accepted: stream::Accepted) -> io::Result<stream::Stream> {
        match accepted.0 {
            AcceptedKind::Uring(fd) => {
                let stream = net::Stream::new(&self.0, fd)?;
                Ok(stream::Stream(stream::StreamKind::Uring(stream)))
            }
            #[cfg(any(test, feature = "sim"))]
            AcceptedKind::Sim(_) => Err(io::Error::other("a simulated connection")),
        }
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<stream::Stream> {
        let stream = net::Stream::connect(&self.0, addr).await?;
        Ok(stream::Stream(stream::StreamKind::Uring(stream)))
    }
}

/// The kernel arm of [`crate::FileSystem`].
pub(crate) struct FileSystem {
    shard: Rc<Shard>,
    root: Arc<fs::File>,
}

impl FileSystem {
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let root = self.root.clone();
        self.shard.pool.run(move || sync_all(&root)).await
    }

    pub(crate) async fn replace_files(&self, files: Vec<(PathBuf, Vec<u8>)>) -> io::Result<()> {
        let root = self.root.clone();
        self.shard
            .pool
            .run(move || replace_files(&root, &files))
            .await
    }
}

fn sync_all(root: &fs::File) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    match unsafe { libc::syncfs(root.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn replace_files(root: &fs::File, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
    for (path, bytes) in files {
        fs::write(temporary(path), bytes)?;
    }
    sync_all(root)?;
    for (path, _) in files {
        fs::rename(temporary(path), path)?;
    }
    sync_all(root)
}

fn name_of(entry: &fs::DirEntry, dir: &Path) -> io::Result<String> {
    entry.file_name().into_string().map_err(|name| {
        let text = format!("{}: the name {name:?} is not UTF-8", dir.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn list_dirs(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(name_of(&entry, path)?);
        }
    }
    Ok(names)
}

fn list_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = name_of(&entry, path)?;
        // A file that is removed meanwhile is not an entry any more.
        let Ok(meta) = entry.metadata() else { continue };
        let len = if meta.is_dir() { 0 } else { meta.len() };
        entries.push(DirEntry {
            name,
            is_dir: meta.is_dir(),
            len,
        });
    }
    entries.sort();
    Ok(entries)
}

fn read_file(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(crate::file::too_large(path, max));
    }
    Ok(bytes)
}

fn temporary(path: &Path) -> PathBuf {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".tmp");
    PathBuf::from(temp)
}

fn write_file_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = temporary(path);
    let mut file = fs::File::create(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    fs::File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    // SAFETY: zeros are a valid `statvfs`, which the call overwrites.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(DiskSpace {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bavail * stat.f_frsize,
    })
}

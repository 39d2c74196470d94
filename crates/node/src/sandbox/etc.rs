//! The made-up `/etc`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::INSIDE_ID;

/// What is bound from the host's `/etc`, where it is there: nothing that tells of its users, network or services.
pub(super) const BOUND: &[&str] = &[
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "ca-certificates",
];

/// Writes it into `dir`.
pub(super) fn write(dir: &Path, hostname: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let passwd = format!(
        "root:x:0:0:root:/:/usr/sbin/nologin\n\
         agent:x:{INSIDE_ID}:{INSIDE_ID}:agent:/workspace:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    );
    let files = [
        ("passwd", passwd),
        ("group", format!("root:x:0:\nagent:x:{INSIDE_ID}:\nnogroup:x:65534:\n")),
        ("hosts", format!("127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost\n")),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", String::new()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n".into()),
        ("shells", "/bin/sh\n/bin/bash\n".into()),
    ];
    files.iter().try_for_each(|(name, content)| std::fs::write(dir.join(name), content))
}

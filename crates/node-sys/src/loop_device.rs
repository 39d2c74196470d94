//! Loop devices: a file as a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Programs that do not take our lock take the device that was free a moment ago.
const ATTEMPTS: usize = 64;

/// The kernel's `struct loop_info64`.
#[repr(C)]
struct Info {
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// The kernel's `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device that goes away with its last user: this value, or a mount.
#[derive(Debug)]
pub struct LoopDevice {
    _device: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches `image` to a free loop device.
    ///
    /// # Errors
    /// When the kernel offers no free device, or refuses the image.
    pub fn attach(image: &File) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        // Between asking for a free device and taking it, every other sandbox that starts is told the same one.
        rustix::fs::flock(&control, rustix::fs::FlockOperation::LockExclusive)?;
        for _ in 0..ATTEMPTS {
            // SAFETY: this request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path)?;
            match configure(&device, image) {
                Ok(()) => return Ok(Self { _device: device, path }),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }

    /// The block device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(device: &File, image: &File) -> io::Result<()> {
    let info = Info {
        numbers: [0; 5],
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let config = Config { fd: image.as_raw_fd().cast_unsigned(), block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the structure is the one that this request reads, and outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether some loop device uses `image`, in whatever mount namespace.
///
/// # Errors
/// When sysfs cannot be read.
pub fn is_attached(image: &Path) -> io::Result<bool> {
    for block in std::fs::read_dir("/sys/block")? {
        let backing = block?.path().join("loop/backing_file");
        if let Ok(name) = std::fs::read_to_string(backing)
            && Path::new(name.trim_end_matches('\n')) == image
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}

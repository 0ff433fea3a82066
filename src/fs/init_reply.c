/* SPDX-License-Identifier: MIT */
#include "fs/init_reply.h"

#include <errno.h>
#include <linux/fuse.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Bits of include/uapi/linux/fuse.h that older headers lack. */
#ifndef FUSE_INIT_EXT
#define FUSE_INIT_EXT (1u << 30)
#endif
#define WANT_PARALLEL_DIROPS (1u << 18)
#define WANT_HANDLE_KILLPRIV_V2 (1u << 28)
/* Bit 36 of the flags: bit 4 of flags2. */
#define WANT_DIRECT_IO_ALLOW_MMAP (1u << 4)

#if defined(__SANITIZE_ADDRESS__)
#define ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN
#endif
#endif

/* A session of its own process: the calls below have no user data that libfuse would pass. */
static struct {
	struct stfs_fs *fs;
	_Atomic uint64_t unique; /* of the INIT request, 0 when it has been answered */
	uint32_t offered, offered2;
} init;

/* Where flags2 stands in struct fuse_init_out since protocol 7.36. */
#define FLAGS_OFFSET offsetof(struct fuse_init_out, flags)
#define FLAGS2_OFFSET 32

bool stfs_init_reply_complete(uint32_t offered, uint32_t offered2, void *reply, size_t len)
{
	const uint32_t want = FUSE_INIT_EXT | WANT_PARALLEL_DIROPS | WANT_HANDLE_KILLPRIV_V2;
	uint32_t flags, flags2;

	if (len < FLAGS2_OFFSET + sizeof(flags2))
		return false;
	memcpy(&flags, (char *)reply + FLAGS_OFFSET, sizeof(flags));
	memcpy(&flags2, (char *)reply + FLAGS2_OFFSET, sizeof(flags2));
	flags |= want & offered;
	if (flags & FUSE_INIT_EXT) /* only then does the kernel look at flags2 */
		flags2 |= WANT_DIRECT_IO_ALLOW_MMAP & offered2;
	memcpy((char *)reply + FLAGS_OFFSET, &flags, sizeof(flags));
	memcpy((char *)reply + FLAGS2_OFFSET, &flags2, sizeof(flags2));
	return true;
}

static void note_offer(const void *request, size_t len)
{
	const struct fuse_in_header *header = request;
	const struct fuse_init_in *in = (const void *)(header + 1);

	/* flags2 came with protocol 7.36 and only then stands in the request. */
	init.offered = in->flags;
	init.offered2 = 0;
	if (in->flags & FUSE_INIT_EXT && len >= sizeof(*header) + 5 * sizeof(uint32_t))
		memcpy(&init.offered2, (const char *)in + 4 * sizeof(uint32_t), sizeof(uint32_t));
	atomic_store(&init.unique, header->unique);
}

ssize_t stfs_init_reply_read(int fd, void *buffer, size_t len, void *userdata)
{
	const struct fuse_in_header *header = buffer;
	ssize_t got = read(fd, buffer, len);

	if (got >= (ssize_t)(sizeof(*header) + 4 * sizeof(uint32_t)) && header->opcode == FUSE_INIT)
		note_offer(buffer, (size_t)got);
	/* To libfuse that would be a fault. */
	if (got < 0 && errno == ECONNABORTED)
		errno = ENODEV;
	return got;
}

static void complete(const struct iovec *iov, int count)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	uint32_t flags = 0, flags2 = 0;

	if (iov[0].iov_len < sizeof(*out) || out->unique != atomic_load(&init.unique))
		return;
	atomic_store(&init.unique, 0);
	if (out->error || count < 2 ||
	    !stfs_init_reply_complete(init.offered, init.offered2, iov[1].iov_base, iov[1].iov_len))
		return;
	memcpy(&flags, (char *)iov[1].iov_base + FLAGS_OFFSET, sizeof(flags));
	memcpy(&flags2, (char *)iov[1].iov_base + FLAGS2_OFFSET, sizeof(flags2));
	atomic_store(&init.fs->direct_io_mmap,
		     flags & FUSE_INIT_EXT && flags2 & WANT_DIRECT_IO_ALLOW_MMAP);
	atomic_store(&init.fs->parallel_dirops, (flags & WANT_PARALLEL_DIROPS) != 0);
}

static ssize_t send_reply(int fd, const struct iovec *iov, int count)
{
#ifdef ASAN
	/* Once the kernel has the bytes, another thread may serve the file's release and free them;
	 * AddressSanitizer's own writev() looks at them after that. */
	return syscall(SYS_writev, fd, iov, count);
#else
	return writev(fd, iov, count);
#endif
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	ssize_t done, total = 0;

	if (atomic_load(&init.unique))
		complete(iov, count);
	done = send_reply(fd, iov, count);
	if (done >= 0 || errno != EFAULT)
		return done;
	/* The file was cut short under the mapping. The kernel has ended the request with EIO;
	 * to libfuse it is answered. */
	stfs_fs_note_cut(init.fs);
	for (int i = 0; i < count; i++)
		total += (ssize_t)iov[i].iov_len;
	return total;
}

void stfs_init_reply_bind(struct stfs_fs *fs)
{
	init.fs = fs;
}

int stfs_init_reply_attach(struct fuse_session *session)
{
	static const struct fuse_custom_io io = {.read = stfs_init_reply_read, .writev = write_reply};

	return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}

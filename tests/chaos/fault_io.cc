// A preloaded library that stands between the ranks and the kernel for launch/chaos: while a control file says so, writes
// into one folder find no space or take long, and the wall clock is another one. What it did is appended to a second file,
// so that the campaign knows that its fault fired.
//   CADRE_CHAOS=<control>   text: "full FOLDER", "slow MILLISECONDS FOLDER" or "clock SECONDS"; missing or empty: nothing
//   <control>.fired         a line for the first time that each process was hit
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace {

enum Kind { kNone, kFull, kSlow, kClock };
struct Fault {
  Kind kind = kNone;
  long number = 0;
  char folder[512] = "";
};

timespec real_time(clockid_t clock) {
  timespec t{};
  syscall(SYS_clock_gettime, clock, &t);
  return t;
}

void read_control(const char* path, Fault& fault) {
  char text[600] = "";
  const int fd = int(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0));
  if (fd >= 0) {
    const long n = syscall(SYS_read, fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    syscall(SYS_close, fd);
  }
  fault = {};
  if (std::sscanf(text, "full %511s", fault.folder) == 1) fault.kind = kFull;
  if (std::sscanf(text, "slow %ld %511s", &fault.number, fault.folder) == 2) fault.kind = kSlow;
  if (std::sscanf(text, "clock %ld", &fault.number) == 1) fault.kind = kClock;
}

// The control file is looked at again after some milliseconds; every call in between sees the same fault.
Fault current() {
  static const char* const path = std::getenv("CADRE_CHAOS");
  if (path == nullptr) return {};
  static std::mutex lock;
  static Fault fault;
  static long looked_ms = -1000;
  const timespec t = real_time(CLOCK_MONOTONIC);
  const long now_ms = t.tv_sec * 1000 + t.tv_nsec / 1'000'000;
  const std::lock_guard guard(lock);
  constexpr long kLookEveryMs = 10;
  if (now_ms - looked_ms >= kLookEveryMs) {
    looked_ms = now_ms;
    read_control(path, fault);
  }
  return fault;
}

void tell_once(const char* what) {
  static std::atomic<bool> told = false;
  if (told.exchange(true)) return;
  const std::string file = std::string(std::getenv("CADRE_CHAOS")) + ".fired";
  const std::string line = std::string(what) + " " + std::to_string(getpid()) + "\n";
  const int fd =
      int(syscall(SYS_openat, AT_FDCWD, file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (fd < 0) return;
  syscall(SYS_write, fd, line.data(), line.size());
  syscall(SYS_close, fd);
}

bool lies_in(int fd, const char* folder) {
  char link[64], path[1024];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return false;
  path[n] = '\0';
  return std::strstr(path, folder) != nullptr;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  const Fault fault = current();
  if ((fault.kind == kFull || fault.kind == kSlow) && lies_in(fd, fault.folder)) {
    tell_once(fault.kind == kFull ? "full" : "slow");
    if (fault.kind == kFull) {
      errno = ENOSPC;
      return -1;
    }
    const timespec pause = {fault.number / 1000, fault.number % 1000 * 1'000'000};
    nanosleep(&pause, nullptr);
  }
  return syscall(SYS_write, fd, data, size);
}

int clock_gettime(clockid_t clock, timespec* out) {
  const long code = syscall(SYS_clock_gettime, clock, out);
  if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return int(code);
  const Fault fault = current();
  if (fault.kind != kClock) return int(code);
  tell_once("clock");
  out->tv_sec += fault.number;
  return int(code);
}

int gettimeofday(timeval* out, void*) {
  timespec t{};
  const int code = clock_gettime(CLOCK_REALTIME, &t);
  out->tv_sec = t.tv_sec;
  out->tv_usec = t.tv_nsec / 1000;
  return code;
}

time_t time(time_t* out) {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  if (out != nullptr) *out = t.tv_sec;
  return t.tv_sec;
}

}  // extern "C"

#include "trainer/report/event_file.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>

#include "parallel/base/log.h"

namespace cadre::report {
namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  constexpr uint32_t kReversedCastagnoli = 0x82F63B78;
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kReversedCastagnoli : 0);
    table[byte] = crc;
  }
  return table;
}

template <class T>
void put(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

// The wire format of protobuf: a field starts with (number << 3 | kind).
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += char(value | 0x80);
  out += char(value);
}
void put_field(std::string& out, int number, Wire wire) {
  put_varint(out, uint64_t(number) << 3 | uint64_t(wire));
}
void put_bytes(std::string& out, int number, std::string_view bytes) {
  put_field(out, number, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string value_message(const std::string& tag, double value) {
  std::string message;
  put_bytes(message, 1, tag);
  put_field(message, 2, kFixed32);
  put(message, float(value));
  return message;
}

std::string event_message(uint64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string message;
  put_field(message, 1, kFixed64);
  put(message, now.count());
  put_field(message, 2, kVarint);
  put_varint(message, step);
  return message;
}

std::string session_start(uint64_t first_step) {
  std::string event = event_message(first_step), session;
  put_field(session, 1, kVarint);
  put_varint(session, 1);
  put_bytes(event, 7, session);
  return tf_record(event);
}

// TensorBoard reads every file whose name holds "tfevents", in the order of their names.
std::filesystem::path file_name() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  char host[256] = "host";
  (void)gethostname(host, sizeof host - 1);
  static std::atomic<int> count = 0;  // a second file may follow within a second
  return fmt::format("events.out.tfevents.{:010}.{}.{}.{}",
                     std::chrono::duration_cast<std::chrono::seconds>(now).count(), host, getpid(), count++);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = kTable[(crc ^ uint8_t(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  constexpr uint32_t kDelta = 0xa282ead8;
  return std::rotr(crc32c(bytes), 15) + kDelta;
}

std::string tf_record(std::string_view data) {
  std::string record;
  put(record, uint64_t(data.size()));
  put(record, masked_crc32c(record));
  record += data;
  put(record, masked_crc32c(data));
  return record;
}

EventFile::EventFile(const std::filesystem::path& folder, uint64_t first_step) : folder_(folder) {
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  require(!code, ExitCode::kCheckpoint, "cannot create {}: {}", folder.string(), code.message());
  open(first_step);
}

void EventFile::open(uint64_t first_step) {
  auto file = std::make_unique<base::FileWriter>(folder_ / file_name(), ExitCode::kCheckpoint);
  std::string head = event_message(0);
  put_bytes(head, 3, "brain.Event:2");
  file->write(tf_record(head) + session_start(first_step));
  file_ = std::move(file);
}

// A frame that was written in part would make the rest of the file unreadable, so a failure ends the file.
void EventFile::write(uint64_t step, const std::string& record) {
  try {
    if (!file_) open(step);
    file_->write(record);
    told_ = false;
  } catch (const Error& error) {
    if (!told_) spdlog::warn("TensorBoard events are lost until this is over: {}", error.what());
    told_ = true;
    file_.reset();
  }
}

void EventFile::line(const nlohmann::json& line) {
  const std::string kind = line.value("kind", "");
  if (kind != "train" && kind != "eval") return;
  std::string summary;
  for (const Scalar& s : scalars(line)) {
    put_bytes(summary, 1, value_message(kind + "/" + s.name + (s.part.empty() ? "" : "/" + s.part), s.value));
  }
  const uint64_t step = line.value("step", uint64_t(0));
  std::string event = event_message(step);
  put_bytes(event, 5, summary);
  write(step, tf_record(event));
}

void EventFile::rewind(uint64_t step) {
  write(step + 1, session_start(step + 1));
}

}  // namespace cadre::report

// Writing shards: built in memory, then written as plain bytes (data/hdf5_image.h).
#include <fmt/format.h>
#include <unistd.h>

#include "data/hdf5_image.h"
#include "data/shard.h"
#include "parallel/base/files.h"

namespace cadre::data {

struct ShardWriter::Impl {
  ShardHeader header;
  bool narrow = true;
  std::vector<uint16_t> narrow_tokens;
  std::vector<uint32_t> wide_tokens;
  std::vector<uint64_t> offsets = {0};
  std::vector<uint16_t> domains;
  std::vector<uint32_t> bytes;
  std::vector<DocHash> hashes;
  std::vector<uint8_t> loss_mask, answers;
  std::vector<uint64_t> answer_offsets = {0};
  std::vector<uint16_t> levels;

  bool masked() const { return header.kind == SetKind::kInstruction || header.kind == SetKind::kPreference; }
  void write_extras(hid_t file, const std::string& what) const {
    if (masked())
      write_dataset(file, "loss_mask", {loss_mask.size()}, H5T_STD_U8LE, H5T_NATIVE_UINT8, loss_mask.data(),
                    what);
    if (header.kind != SetKind::kPrompts) return;
    write_dataset(file, "answer_offsets", {answer_offsets.size()}, H5T_STD_U64LE, H5T_NATIVE_UINT64,
                  answer_offsets.data(), what);
    write_dataset(file, "answers", {answers.size()}, H5T_STD_U8LE, H5T_NATIVE_UINT8, answers.data(), what);
    write_dataset(file, "level", {levels.size()}, H5T_STD_U16LE, H5T_NATIVE_UINT16, levels.data(), what);
  }

  std::vector<std::byte> build(const std::string& what) {
    const Hdf5Lock lock;
    const hsize_t documents = domains.size(), tokens = offsets.back();
    const Hdf5Handle file = make_file_in_memory(tokens * (narrow ? 2 : 4) + documents * 32, what);
    write_int_attribute(file, "format_version", Manifest::kFormatVersion, what);
    write_int_attribute(file, "vocab_size", header.vocab_size, what);
    write_text_attribute(file, "tokenizer_sha256", {header.tokenizer_sha256}, true, what);
    write_text_attribute(file, "split", {header.split}, true, what);
    write_text_attribute(file, "domains", header.domains, false, what);
    if (narrow) {
      write_dataset(file, "tokens", {tokens}, H5T_STD_U16LE, H5T_NATIVE_UINT16, narrow_tokens.data(), what);
      std::vector<uint16_t>().swap(narrow_tokens);  // the image needs the room
    } else {
      write_dataset(file, "tokens", {tokens}, H5T_STD_U32LE, H5T_NATIVE_UINT32, wide_tokens.data(), what);
      std::vector<uint32_t>().swap(wide_tokens);
    }
    write_dataset(file, "doc_offsets", {documents + 1}, H5T_STD_U64LE, H5T_NATIVE_UINT64, offsets.data(),
                  what);
    write_dataset(file, "doc_domain", {documents}, H5T_STD_U16LE, H5T_NATIVE_UINT16, domains.data(), what);
    write_dataset(file, "doc_bytes", {documents}, H5T_STD_U32LE, H5T_NATIVE_UINT32, bytes.data(), what);
    write_dataset(file, "doc_hash", {documents, 16}, H5T_STD_U8LE, H5T_NATIVE_UINT8, hashes.data(), what);
    write_extras(file, what);
    return image_of(file, what);
  }
};

ShardWriter::ShardWriter(ShardHeader header) : impl_(std::make_unique<Impl>()) {
  require(header.domains.size() >= 1 && header.domains.size() <= 65536, ExitCode::kData,
          "a shard holds 1 to 65536 domains, found {}", header.domains.size());
  impl_->narrow = header.vocab_size <= 65536;
  impl_->header = std::move(header);
}
ShardWriter::~ShardWriter() = default;

void ShardWriter::add(std::span<const int32_t> tokens, int domain, uint32_t text_bytes, const DocHash& hash,
                      const DocumentExtras& extras) {
  Impl& s = *impl_;
  require(tokens.size() >= 2, ExitCode::kData, "a document has {} tokens, expected at least bos and eos",
          tokens.size());
  require(domain >= 0 && size_t(domain) < s.header.domains.size(), ExitCode::kData,
          "domain {} of a document, expected 0 to {}", domain, s.header.domains.size() - 1);
  for (const int32_t token : tokens) {
    require(token >= 0 && token < s.header.vocab_size, ExitCode::kData, "token {}, expected 0 to {}", token,
            s.header.vocab_size - 1);
  }
  if (s.narrow) {
    s.narrow_tokens.insert(s.narrow_tokens.end(), tokens.begin(), tokens.end());
  } else {
    s.wide_tokens.insert(s.wide_tokens.end(), tokens.begin(), tokens.end());
  }
  s.offsets.push_back(s.offsets.back() + tokens.size());
  s.domains.push_back(static_cast<uint16_t>(domain));
  s.bytes.push_back(text_bytes);
  s.hashes.push_back(hash);
  if (s.masked()) {
    require(extras.loss_mask.size() == tokens.size(), ExitCode::kData, "{} loss mask entries for {} tokens",
            extras.loss_mask.size(), tokens.size());
    s.loss_mask.insert(s.loss_mask.end(), extras.loss_mask.begin(), extras.loss_mask.end());
  }
  if (s.header.kind != SetKind::kPrompts) return;
  require(extras.level >= 0 && extras.level <= 65535, ExitCode::kData, "level {}, expected 0 to 65535",
          extras.level);
  s.answers.insert(s.answers.end(), extras.answer.begin(), extras.answer.end());
  s.answers.push_back(0);
  s.answer_offsets.push_back(s.answers.size());
  s.levels.push_back(static_cast<uint16_t>(extras.level));
}

int64_t ShardWriter::tokens() const {
  return static_cast<int64_t>(impl_->offsets.back());
}
int64_t ShardWriter::documents() const {
  return static_cast<int64_t>(impl_->domains.size());
}

ShardInfo ShardWriter::finish(const std::filesystem::path& folder, const std::string& file_name) {
  require(documents() > 0, ExitCode::kData, "{}: a shard without documents is not written", file_name);
  const std::filesystem::path final_path = folder / file_name;
  const std::filesystem::path temporary = final_path.string() + fmt::format(".tmp-{}", getpid());
  ShardInfo info{file_name, 0, "", documents(), tokens()};
  const std::vector<std::byte> image = impl_->build("cannot build shard " + final_path.string());
  try {
    base::FileWriter writer(temporary, ExitCode::kData);
    writer.write(image);
    writer.close();
    info.bytes = writer.bytes();
    info.sha256 = writer.sha256();
    base::rename_durably(temporary, final_path, ExitCode::kData);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  ShardHeader header = std::move(impl_->header);
  *this->impl_ = Impl{};
  impl_->narrow = header.vocab_size <= 65536;
  impl_->header = std::move(header);
  return info;
}

}  // namespace cadre::data

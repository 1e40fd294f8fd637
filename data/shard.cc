// Reading shards. Nothing in a shard is believed: first its bytes are compared with the manifest, then every
// count, type and offset with the others.
#include "data/shard.h"

#include "data/hdf5_read.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

template <class T>
std::vector<T> read_dataset(hid_t file, const char* name, uint64_t length, hid_t type,
                            const std::string& shard) {
  const Hdf5Handle set = open_dataset(file, name, length, sizeof(T), shard);
  std::vector<T> values(length);
  hdf5_check(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
             fmt::format("{}: /{}", shard, name));
  return values;
}

const Split& split_of(const Manifest& manifest, const std::string& file) {
  for (const Split& split : manifest.splits) {
    for (const ShardInfo& shard : split.shards) {
      if (shard.file == file) return split;
    }
  }
  fail(ExitCode::kData, "{}: the manifest in {} does not list this shard", file, manifest.folder.string());
}

void check_bytes(const std::string& name, const ShardInfo& info, Verify verify) {
  std::error_code error;
  const auto size = std::filesystem::file_size(name, error);
  require(!error, ExitCode::kData, "{}: {}. The manifest lists this shard; prepare the data again", name,
          error.message());
  require(size == info.bytes, ExitCode::kData,
          "{}: {} bytes, expected {} (manifest). Copy it again or prepare the data again", name, size,
          info.bytes);
  if (verify == Verify::kSize) return;
  const std::string hash = base::sha256_file(name);
  require(
      hash == info.sha256, ExitCode::kData,
      "{}: SHA-256 {}, expected {} (manifest). The file is damaged: copy it again or prepare the data again",
      name, hash, info.sha256);
}

}  // namespace

struct ShardReader::Impl {
  std::string name;
  ShardHeader header;
  std::vector<uint64_t> offsets;
  std::vector<uint16_t> domains;
  std::vector<uint32_t> bytes;
  std::vector<uint8_t> loss_mask, answers;
  std::vector<uint64_t> answer_offsets;
  std::vector<uint16_t> levels;
  Hdf5Handle file, tokens;

  // What the kind of set has beside tokens.
  void read_extras(const ShardInfo& info) {
    if (header.kind == SetKind::kInstruction || header.kind == SetKind::kPreference) {
      loss_mask = read_dataset<uint8_t>(file, "loss_mask", uint64_t(info.tokens), H5T_NATIVE_UINT8, name);
      for (const uint8_t m : loss_mask)
        require(m <= 1, ExitCode::kData, "{}: /loss_mask holds {}, expected 0 or 1", name, m);
    }
    require(header.kind != SetKind::kPreference || info.documents % 2 == 0, ExitCode::kData,
            "{}: {} documents in a set of pairs, expected an even number", name, info.documents);
    if (header.kind != SetKind::kPrompts) return;
    const uint64_t documents = uint64_t(info.documents);
    answer_offsets = read_dataset<uint64_t>(file, "answer_offsets", documents + 1, H5T_NATIVE_UINT64, name);
    levels = read_dataset<uint16_t>(file, "level", documents, H5T_NATIVE_UINT16, name);
    for (size_t d = 0; d < documents; ++d) {
      require(answer_offsets[d] < answer_offsets[d + 1] && answer_offsets[d + 1] <= info.bytes,
              ExitCode::kData, "{}: /answer_offsets is not rising at document {}", name, d);
    }
    require(answer_offsets[0] == 0, ExitCode::kData, "{}: /answer_offsets begins with {}, expected 0", name,
            answer_offsets[0]);
    answers = read_dataset<uint8_t>(file, "answers", answer_offsets.back(), H5T_NATIVE_UINT8, name);
  }

  ~Impl() {
    const Hdf5Lock lock;
    tokens = Hdf5Handle();
    file = Hdf5Handle();
  }

  void read_header() {
    const int version = read_int_attribute(file, "format_version", name);
    require(version == Manifest::kFormatVersion, ExitCode::kData, "{}: format version {}, expected {}", name,
            version, Manifest::kFormatVersion);
    header.vocab_size = read_int_attribute(file, "vocab_size", name);
    header.domains = read_text_attribute(file, "domains", name);
    for (const auto& [key, out] :
         {std::pair{"tokenizer_sha256", &header.tokenizer_sha256}, {"split", &header.split}}) {
      const std::vector<std::string> texts = read_text_attribute(file, key, name);
      require(texts.size() == 1, ExitCode::kData, "{}: attribute {} has {} values, expected 1", name, key,
              texts.size());
      *out = texts[0];
    }
  }

  void check_header(const Manifest& manifest, const Split& split) const {
    require(header.split == split.name, ExitCode::kData, "{}: split '{}', expected '{}' (manifest)", name,
            header.split, split.name);
    require(header.vocab_size == manifest.vocab_size, ExitCode::kData,
            "{}: vocab_size {}, expected {} (manifest)", name, header.vocab_size, manifest.vocab_size);
    require(header.tokenizer_sha256 == manifest.tokenizer_sha256, ExitCode::kData,
            "{}: made by tokenizer {}, expected {} (manifest)", name, header.tokenizer_sha256,
            manifest.tokenizer_sha256);
    bool same = header.domains.size() == split.domains.size();
    for (size_t k = 0; same && k < split.domains.size(); ++k)
      same = header.domains[k] == split.domains[k].name;
    require(same, ExitCode::kData, "{}: its {} domains are not the {} of split '{}' in the manifest", name,
            header.domains.size(), split.domains.size(), split.name);
  }

  void read_documents(const ShardInfo& info) {
    const uint64_t documents = uint64_t(info.documents), tokens_width = header.vocab_size <= 65536 ? 2 : 4;
    // Before anything is allocated: data is stored uncompressed, so counts that the file has no room for are
    // lies.
    require(documents <= info.bytes && uint64_t(info.tokens) <= info.bytes / tokens_width, ExitCode::kData,
            "{}: {} documents and {} tokens (manifest) do not fit into {} bytes", name, documents,
            info.tokens, info.bytes);
    tokens = open_dataset(file, "tokens", uint64_t(info.tokens), tokens_width, name);
    offsets = read_dataset<uint64_t>(file, "doc_offsets", documents + 1, H5T_NATIVE_UINT64, name);
    domains = read_dataset<uint16_t>(file, "doc_domain", documents, H5T_NATIVE_UINT16, name);
    bytes = read_dataset<uint32_t>(file, "doc_bytes", documents, H5T_NATIVE_UINT32, name);
    require(offsets.front() == 0 && offsets.back() == uint64_t(info.tokens), ExitCode::kData,
            "{}: /doc_offsets goes from {} to {}, expected 0 to {}", name, offsets.front(), offsets.back(),
            info.tokens);
    for (size_t d = 0; d < domains.size(); ++d) {
      require(offsets[d + 1] <= uint64_t(info.tokens) && offsets[d] + 2 <= offsets[d + 1], ExitCode::kData,
              "{}: document {} is tokens {} to {}, expected at least 2 and none past {}", name, d, offsets[d],
              offsets[d + 1], info.tokens);
      require(domains[d] < header.domains.size(), ExitCode::kData,
              "{}: document {} has domain {}, expected 0 to {}", name, d, domains[d],
              header.domains.size() - 1);
    }
  }
};

ShardReader::ShardReader(const Manifest& manifest, const ShardInfo& info, Verify verify)
    : impl_(std::make_unique<Impl>()) {
  Impl& s = *impl_;
  s.name = (manifest.folder / info.file).string();
  const Split& split = split_of(manifest, info.file);
  check_bytes(s.name, info, verify);
  const Hdf5Lock lock;
  s.file = open_hdf5(s.name, "the shard");
  s.read_header();
  s.check_header(manifest, split);
  s.read_documents(info);
  s.header.kind = manifest.kind;
  s.read_extras(info);
}
ShardReader::~ShardReader() = default;

const ShardHeader& ShardReader::header() const {
  return impl_->header;
}
int64_t ShardReader::documents() const {
  return static_cast<int64_t>(impl_->domains.size());
}
const std::vector<uint64_t>& ShardReader::offsets() const {
  return impl_->offsets;
}
const std::vector<uint16_t>& ShardReader::doc_domain() const {
  return impl_->domains;
}
const std::vector<uint32_t>& ShardReader::doc_bytes() const {
  return impl_->bytes;
}

const std::vector<uint8_t>& ShardReader::loss_mask() const {
  return impl_->loss_mask;
}
std::string ShardReader::answer(size_t document) const {
  const Impl& s = *impl_;
  return {s.answers.begin() + int64_t(s.answer_offsets.at(document)),
          s.answers.begin() + int64_t(s.answer_offsets.at(document + 1)) - 1};
}
int ShardReader::level(size_t document) const {
  return impl_->levels.at(document);
}

void ShardReader::read_tokens(uint64_t begin, std::span<int32_t> out) const {
  const Impl& s = *impl_;
  if (out.empty()) return;
  require(begin <= s.offsets.back() && out.size() <= s.offsets.back() - begin, ExitCode::kData,
          "{}: tokens {} to {} asked for, it has {}", s.name, begin, begin + out.size(), s.offsets.back());
  {
    const Hdf5Lock lock;
    const std::string what = s.name + ": /tokens";
    const Hdf5Handle space(H5Dget_space(s.tokens), H5Sclose, what);
    const hsize_t start = begin, count = out.size();
    hdf5_check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), what);
    const Hdf5Handle memory(H5Screate_simple(1, &count, nullptr), H5Sclose, what);
    hdf5_check(H5Dread(s.tokens, H5T_NATIVE_UINT32, memory, space, H5P_DEFAULT, out.data()), what);
  }
  for (const int32_t token : out) {
    require(token >= 0 && token < s.header.vocab_size, ExitCode::kData, "{}: token {}, expected 0 to {}",
            s.name, token, s.header.vocab_size - 1);
  }
}

}  // namespace cadre::data

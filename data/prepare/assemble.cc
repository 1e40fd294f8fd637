#include "data/prepare/assemble.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "data/prepare/encode.h"
#include "data/prepare/parts.h"
#include "data/prepare/progress.h"
#include "data/prepare/workers.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct ShardPlan {
  Choice split = Choice::kTrain;
  int index = 0;                   // within the split
  int64_t unit = 0, document = 0;  // its first document: number within the unit
  int64_t documents = 0, tokens = 0;

  std::string name() const {
    return fmt::format("{}-{:05d}", split == Choice::kTrain ? "train" : "valid", index);
  }
};

// Every document of a unit with its choice and, if kept, its tokens' place in the unit's token part.
template <class Visit>  // visit(document, choice, token_begin, num_tokens): false to stop
bool for_each_kept(const Work& work, const Choices& choices, int64_t unit, Visit visit) {
  const std::vector<Choice> of_unit = choices.of_unit(unit);
  PartStream<uint64_t> lengths(work.length_part(unit));
  uint64_t begin = 0, length = 0;
  for (size_t document = 0; document < of_unit.size(); ++document) {
    if (!is_kept(of_unit[document])) continue;
    require(lengths.next(length), ExitCode::kData,
            "{}: not a whole work file. Remove the folder it is in and prepare again",
            work.length_part(unit).string());
    if (!visit(static_cast<int64_t>(document), of_unit[document], begin, length)) return false;
    begin += length;
  }
  return true;
}

std::vector<ShardPlan> plan_shards(const Work& work, const Choices& choices) {
  std::vector<ShardPlan> plans;
  for (const Choice split : {Choice::kTrain, Choice::kValid}) {
    ShardPlan open{split};
    const auto close = [&] {
      if (open.documents > 0) plans.push_back(open);
      open = ShardPlan{split, open.index + 1};
    };
    for (int64_t unit = 0; unit < work.num_units(); ++unit) {
      for_each_kept(work, choices, unit, [&](int64_t document, Choice choice, uint64_t, uint64_t length) {
        if (choice != split) return true;
        const int64_t tokens = static_cast<int64_t>(length);
        if (open.documents > 0 && open.tokens + tokens > work.options.shard_tokens) close();
        if (open.documents == 0) {
          open.unit = unit;
          open.document = document;
        }
        ++open.documents;
        open.tokens += tokens;
        return true;
      });
    }
    close();
  }
  return plans;
}

class Assembler {
 public:
  Assembler(const Work& work, const Choices& choices, const Tokenizer& tokenizer)
      : work_(work), choices_(choices), narrow_(is_narrow(tokenizer)) {
    header_ = {base::sha256_text(tokenizer.definition()), tokenizer.vocab_size(), choices.domains(), ""};
  }

  // A note beside each shard holds what the manifest needs; it is written after the shard.
  fs::path note_path(const ShardPlan& plan) const { return work_.shard_folder() / (plan.name() + ".json"); }

  bool is_done(const ShardPlan& plan) const {
    if (!fs::exists(note_path(plan))) return false;
    const ShardInfo info = read_note(plan, nullptr);
    // A run that was killed while it published has moved some shards already.
    for (const fs::path& folder : {work_.shard_folder(), work_.options.out}) {
      const fs::path file = folder / info.file;
      if (fs::exists(file) && fs::file_size(file) == info.bytes && base::sha256_file(file) == info.sha256)
        return true;
    }
    return false;
  }

  void build(const ShardPlan& plan) const {
    ShardHeader header = header_;
    header.split = plan.split == Choice::kTrain ? "train" : "valid";
    ShardWriter writer(std::move(header));
    std::map<int, DomainInfo> domains;
    for (int64_t unit = plan.unit; writer.documents() < plan.documents; ++unit)
      add_unit(plan, unit, writer, domains);
    const ShardInfo info = writer.finish(work_.shard_folder(), plan.name() + ".h5");
    json note = {{"file", info.file},           {"bytes", info.bytes},   {"sha256", info.sha256},
                 {"documents", info.documents}, {"tokens", info.tokens}, {"domains", json::array()}};
    for (const auto& [id, d] : domains) note["domains"].push_back({id, d.documents, d.tokens, d.bytes});
    base::write_file_atomic(note_path(plan), note.dump(), ExitCode::kData);
  }

  // Adds the shard's counts to the domains unless that is null.
  ShardInfo read_note(const ShardPlan& plan, std::vector<DomainInfo>* domains) const {
    const json note = json::parse(base::read_file(note_path(plan), ExitCode::kData));
    if (domains != nullptr) {
      for (const json& d : note.at("domains")) {
        DomainInfo& sum = domains->at(d[0].get<size_t>());
        sum.documents += d[1].get<int64_t>();
        sum.tokens += d[2].get<int64_t>();
        sum.bytes += d[3].get<int64_t>();
      }
    }
    return {note.at("file").get<std::string>(), note.at("bytes").get<uint64_t>(),
            note.at("sha256").get<std::string>(), note.at("documents").get<int64_t>(),
            note.at("tokens").get<int64_t>()};
  }

 private:
  void add_unit(const ShardPlan& plan, int64_t unit, ShardWriter& writer,
                std::map<int, DomainInfo>& domains) const {
    const std::vector<int> domain_ids = choices_.domain_ids(work_, unit);
    const PartReader tokens(work_.token_part(unit));
    PartStream<DocRecord> records(work_.scan_part(unit));
    DocRecord record;
    int64_t read = 0;
    std::vector<int32_t> ids;
    for_each_kept(work_, choices_, unit,
                  [&](int64_t document, Choice choice, uint64_t begin, uint64_t length) {
                    if (choice != plan.split || (unit == plan.unit && document < plan.document)) return true;
                    for (; read <= document; ++read) records.next(record);
                    read_tokens(tokens, begin, length, ids);
                    const int domain = domain_ids[record.domain];
                    writer.add(ids, domain, record.bytes, record.hash);
                    DomainInfo& sum = domains[domain];
                    ++sum.documents;
                    sum.tokens += static_cast<int64_t>(length);
                    sum.bytes += record.bytes;
                    return writer.documents() < plan.documents;
                  });
  }

  void read_tokens(const PartReader& part, uint64_t begin, uint64_t length, std::vector<int32_t>& ids) const {
    ids.resize(length);
    if (!narrow_) {
      part.read(begin * sizeof(int32_t), std::as_writable_bytes(std::span(ids)));
      return;
    }
    std::vector<uint16_t> narrow(length);
    part.read(begin * sizeof(uint16_t), std::as_writable_bytes(std::span(narrow)));
    std::ranges::copy(narrow, ids.begin());
  }

  const Work& work_;
  const Choices& choices_;
  const bool narrow_;
  ShardHeader header_;
};

Manifest make_manifest(const Assembler& assembler, const std::vector<ShardPlan>& plans,
                       const Choices& choices, const Tokenizer& tokenizer) {
  Manifest manifest;
  manifest.tokenizer_file = tokenizer.file_name();
  manifest.tokenizer_kind = tokenizer.kind();
  manifest.tokenizer_sha256 = base::sha256_text(tokenizer.definition());
  manifest.vocab_size = tokenizer.vocab_size();
  manifest.bos = tokenizer.bos();
  manifest.eos = tokenizer.eos();
  for (const Choice split : {Choice::kTrain, Choice::kValid}) {
    Split& out = manifest.splits.emplace_back();
    out.name = split == Choice::kTrain ? "train" : "valid";
    for (const std::string& name : choices.domains()) out.domains.push_back({name, 0, 0, 0});
    for (const ShardPlan& plan : plans) {
      if (plan.split == split) out.shards.push_back(assembler.read_note(plan, &out.domains));
    }
  }
  return manifest;
}

}  // namespace

uint64_t shard_memory(int64_t shard_tokens) {
  // At worst 4 bytes a token, held four times: the tokens with their vector's reserve, HDF5's image and its
  // copy.
  return static_cast<uint64_t>(shard_tokens) * 16;
}

Manifest assemble(const Work& work, const Choices& choices, const Tokenizer& tokenizer) {
  const std::vector<ShardPlan> plans = plan_shards(work, choices);
  const Assembler assembler(work, choices, tokenizer);
  int64_t tokens = 0;
  for (const ShardPlan& plan : plans) tokens += plan.tokens;
  Progress progress("assemble", static_cast<uint64_t>(tokens / work.comm.size()), "Mtoken",
                    work.comm.rank() == 0);
  const uint64_t fit =
      static_cast<uint64_t>(work.options.memory_bytes) / 2 / shard_memory(work.options.shard_tokens);
  const int threads = static_cast<int>(std::clamp<uint64_t>(fit, 1, static_cast<uint64_t>(work.threads)));
  run_jobs(work.comm, threads, static_cast<int64_t>(plans.size()), "assemble", [&](int64_t index) {
    const ShardPlan& plan = plans[static_cast<size_t>(index)];
    if (!assembler.is_done(plan)) assembler.build(plan);
    progress.add(static_cast<uint64_t>(plan.tokens));
  });
  return make_manifest(assembler, plans, choices, tokenizer);
}

}  // namespace cadre::data

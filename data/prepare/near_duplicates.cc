#include "data/prepare/near_duplicates.h"

#include <algorithm>
#include <memory>

#include "data/prepare/minhash.h"
#include "data/prepare/parts.h"
#include "data/prepare/scan.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

constexpr size_t kMaxKeptOfBucket = 64;
constexpr uint64_t kTrainBit = uint64_t(1) << 63;  // puts held-out documents in front

struct Entry {
  uint64_t key = 0;    // of the band
  uint64_t order = 0;  // document index, with kTrainBit for training documents
  auto operator<=>(const Entry&) const = default;
};

// Random access to signatures, with some files kept open.
class SignatureFiles {
 public:
  SignatureFiles(const Work& work, std::span<const int64_t> first) : work_(work), first_(first), open_(64) {}

  Signature at(int64_t document) {
    const int64_t unit = std::ranges::upper_bound(first_, document) - first_.begin() - 1;
    Slot& slot = open_[static_cast<size_t>(unit) % open_.size()];
    if (slot.unit != unit) {
      slot.part = std::make_unique<PartReader>(work_.signature_part(unit));
      slot.unit = unit;
    }
    Signature signature;
    slot.part->read(static_cast<uint64_t>(document - first_[unit]) * sizeof signature,
                    std::as_writable_bytes(std::span(&signature, 1)));
    return signature;
  }

 private:
  struct Slot {
    int64_t unit = -1;
    std::unique_ptr<PartReader> part;
  };
  const Work& work_;
  std::span<const int64_t> first_;
  std::vector<Slot> open_;
};

// The entries of this round: every key belongs to exactly one round, so buckets stay whole.
std::vector<Entry> collect(const Work& work, const Banding& banding, uint64_t round, uint64_t rounds,
                           const std::vector<Choice>& exact) {
  std::vector<Entry> entries;
  uint64_t document = 0;
  for (int64_t unit = 0; unit < work.num_units(); ++unit) {
    std::vector<uint64_t> domain_hash;
    for (const std::string& name : read_summary(work, unit).domains)
      domain_hash.push_back(base::hash_name(name));
    PartStream<DocRecord> records(work.scan_part(unit));
    PartStream<Signature> signatures(work.signature_part(unit));
    Signature signature;
    for (DocRecord record; records.next(record) && signatures.next(signature); ++document) {
      if (!is_kept(exact[document])) continue;
      const uint64_t order = document | (exact[document] == Choice::kTrain ? kTrainBit : 0);
      for (int band = 0; band < banding.bands; ++band) {
        const uint64_t key = band_key(signature, banding, band, domain_hash[record.domain]);
        if (base::mix(key) % rounds == round) entries.push_back({key, order});
      }
    }
  }
  return entries;
}

// bucket: sorted by order.
void settle_bucket(std::span<const Entry> bucket, double threshold, SignatureFiles& files,
                   std::vector<Choice>& choices) {
  std::vector<Signature> kept;
  for (const Entry& entry : bucket) {
    const int64_t document = static_cast<int64_t>(entry.order & ~kTrainBit);
    const bool held_out = (entry.order & kTrainBit) == 0;
    const Signature signature = files.at(document);
    const bool near = !held_out && std::ranges::any_of(kept, [&](const Signature& other) {
      return estimate_jaccard(signature, other) >= threshold;
    });
    if (near) {
      choices[document] = Choice::kNearDuplicate;
    } else if (kept.size() < kMaxKeptOfBucket) {
      kept.push_back(signature);
    }
  }
}

}  // namespace

void mark_near_duplicates(const Work& work, std::span<const int64_t> first, uint64_t memory_bytes,
                          std::vector<Choice>& choices) {
  const Banding banding = choose_banding(work.options.near_duplicates);
  const uint64_t kept = static_cast<uint64_t>(std::ranges::count_if(choices, is_kept));
  // Twice: a growing vector holds its old and its new memory for a moment.
  const uint64_t bytes = kept * static_cast<uint64_t>(banding.bands) * sizeof(Entry) * 2;
  const uint64_t rounds = bytes / memory_bytes + 1;
  const std::vector<Choice> exact = choices;  // buckets must not see what other buckets decided
  SignatureFiles files(work, first);
  for (uint64_t round = 0; round < rounds; ++round) {
    std::vector<Entry> entries = collect(work, banding, round, rounds, exact);
    std::ranges::sort(entries);
    for (size_t begin = 0, end = 0; begin < entries.size(); begin = end) {
      while (end < entries.size() && entries[end].key == entries[begin].key) ++end;
      if (end - begin > 1) {
        settle_bucket(std::span(entries).subspan(begin, end - begin), work.options.near_duplicates, files,
                      choices);
      }
    }
  }
}

}  // namespace cadre::data

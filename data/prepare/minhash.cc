#include "data/prepare/minhash.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

constexpr int kGram = 5;
constexpr uint64_t kPrime = 0x100000001b3ull, kBasis = 0xcbf29ce484222325ull;  // FNV-1a
constexpr uint64_t kBase = 0x9e3779b97f4a7c15ull;                              // of the rolling polynomial
constexpr uint64_t kEmptyBin = ~uint64_t(0);

constexpr uint64_t power(uint64_t base, int exponent) {
  return exponent == 0 ? 1 : base * power(base, exponent - 1);
}

// What a byte is to the words: 0 ends one, otherwise the byte that counts.
constexpr std::array<uint8_t, 256> word_bytes() {
  std::array<uint8_t, 256> table = {};
  for (int c = 0x80; c < 256; ++c) table[c] = static_cast<uint8_t>(c);
  for (int c = '0'; c <= '9'; ++c) table[c] = static_cast<uint8_t>(c);
  for (int c = 'a'; c <= 'z'; ++c) table[c] = table[c - 'a' + 'A'] = static_cast<uint8_t>(c);
  return table;
}
constexpr std::array<uint8_t, 256> kWordByte = word_bytes();

// Minima of the grams' hashes in each bin.
class Bins {
 public:
  Bins() { minima_.fill(kEmptyBin); }

  // The hash of the last five words is a polynomial in kBase, rolled by one word.
  void add_word(uint64_t word) {
    const uint64_t h = base::mix(word);
    uint64_t& oldest = window_[words_ % kGram];
    rolling_ = (rolling_ - oldest * power(kBase, kGram - 1)) * kBase + h;
    oldest = h;
    if (++words_ >= kGram) add_gram();
  }
  Signature finish() {
    if (words_ < kGram) add_gram();
    Signature signature;
    for (int bin = 0; bin < kSignatureBins; ++bin) signature[bin] = static_cast<uint16_t>(densified(bin));
    return signature;
  }

 private:
  void add_gram() {
    const uint64_t h = base::mix(rolling_);
    constexpr int kBinShift = 57;  // 128 bins
    uint64_t& minimum = minima_[h >> kBinShift];
    minimum = std::min(minimum, h << (64 - kBinShift));
  }
  // An empty bin borrows from a full one; which one depends on the bin alone, so that equal sets borrow
  // alike.
  uint64_t densified(int bin) const {
    uint64_t from = static_cast<uint64_t>(bin);
    for (uint64_t attempt = 1; minima_[from] == kEmptyBin; ++attempt) {
      from = base::mix(static_cast<uint64_t>(bin), attempt) % kSignatureBins;
    }
    return base::mix(minima_[from]);
  }

  std::array<uint64_t, kSignatureBins> minima_;
  std::array<uint64_t, kGram> window_ = {};
  uint64_t rolling_ = 0, words_ = 0;
};

}  // namespace

Signature minhash(std::string_view text) {
  Bins bins;
  uint64_t hash = kBasis;
  const auto end_word = [&] {
    if (hash != kBasis) bins.add_word(hash);
    hash = kBasis;
  };
  for (const char c : text) {
    const uint8_t byte = kWordByte[static_cast<uint8_t>(c)];
    if (byte == 0 || byte >= 0xe0) end_word();
    if (byte != 0) hash = (hash ^ byte) * kPrime;
  }
  end_word();
  return bins.finish();
}

double estimate_jaccard(const Signature& a, const Signature& b) {
  int equal = 0;
  for (int i = 0; i < kSignatureBins; ++i) equal += a[i] == b[i];
  return static_cast<double>(equal) / kSignatureBins;
}

Banding choose_banding(double threshold) {
  constexpr double kFound = 0.95;
  Banding best{kSignatureBins, 1};
  for (int rows = 1; rows <= 16; ++rows) {
    const int bands = kSignatureBins / rows;
    if (1 - std::pow(1 - std::pow(threshold, rows), bands) >= kFound) best = {bands, rows};
  }
  return best;
}

uint64_t band_key(const Signature& signature, const Banding& banding, int band, uint64_t domain_hash) {
  uint64_t key = base::mix(domain_hash, static_cast<uint64_t>(band));
  for (int row = 0; row < banding.rows; ++row) key = base::mix(key ^ signature[band * banding.rows + row]);
  return key;
}

}  // namespace cadre::data

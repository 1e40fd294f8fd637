#include "data/prepare/text_hash.h"

#include <openssl/sha.h>

#include <algorithm>

namespace cadre::data {

// OpenSSL's one-shot function: base::Sha256 makes a context and a hexadecimal text, which costs more than
// hashing for short documents.
DocHash hash_text(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  DocHash hash;
  std::copy_n(digest.begin(), hash.size(), hash.begin());
  return hash;
}

}  // namespace cadre::data

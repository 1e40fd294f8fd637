// The little of SentencePiece's model format (a protocol buffer, sentencepiece_model.proto) that its public
// headers do not reach: the normaliser's settings.
#pragma once

#include <string>

namespace cadre::data {

struct IdentityModel {
  std::string model;     // the same model with the identity normaliser
  std::string replaced;  // what the normaliser did before, in words; empty when it already was the identity
};

// Throws Error(kData), naming `where`, for bytes that are no model.
IdentityModel with_identity_normalizer(const std::string& model, const std::string& where);

}  // namespace cadre::data

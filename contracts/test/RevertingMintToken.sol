// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MintToken} from "../MintToken.sol";

/// @title For tests: a token with the same ABI whose batch reverts as a whole on one used id.
/// @notice Tokens like it are deployed already; the mint worker has to drive them too.
contract RevertingMintToken is MintToken {
    constructor(
        string memory name,
        string memory symbol,
        uint256 mintAmount_,
        uint256 maxMintCount_,
        address admin,
        address minter
    ) MintToken(name, symbol, mintAmount_, maxMintCount_, admin, minter) {}

    function batchMint(address[] calldata to, bytes32[] calldata mintId) external override onlyRole(MINTER_ROLE) {
        require(to.length == mintId.length, MintToken__LengthMismatch(to.length, mintId.length));
        for (uint256 i = 0; i < to.length; ++i) {
            require(_mintUnit(to[i], mintId[i]), MintToken__MintIdUsed(mintId[i]));
        }
        _count(to.length);
    }
}

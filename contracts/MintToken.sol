// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title An ERC-20 that is minted in equal units, each of them once.
/// @notice A unit is named by a mint id. The contract refuses an id that was used, so whatever a minter repeats
/// after a crash is minted once.
contract MintToken is ERC20, ERC20Permit, AccessControl {
    /// @notice One unit was minted.
    event TokensMinted(address indexed to, uint256 amount, bytes32 mintId);

    /// @notice The unit of this id exists already.
    error MintToken__MintIdUsed(bytes32 mintId);
    /// @notice More units are asked for than are left; of a batch nothing is minted.
    error MintToken__CapReached(uint256 unitsAsked, uint256 unitsLeft);
    /// @notice A batch needs one mint id for each recipient.
    error MintToken__LengthMismatch(uint256 recipients, uint256 mintIds);
    /// @notice A unit has to be more than nothing.
    error MintToken__ZeroMintAmount();
    /// @notice There has to be a unit to mint.
    error MintToken__ZeroMaxMintCount();
    /// @notice Someone has to be able to name minters.
    error MintToken__ZeroAdmin();

    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");

    /// @notice What one unit is, in the token's smallest unit.
    uint256 public immutable mintAmount;
    /// @notice How many units there can ever be.
    uint256 public immutable maxMintCount;
    /// @notice How many units were minted.
    uint256 public mintCount;

    // A struct, so that a reference to the slot can be kept; a whole word, so that nothing has to be masked.
    struct Unit {
        uint256 used; // 0 or 1
    }

    mapping(bytes32 mintId => Unit) private _units;

    /// @param minter may be zero: then nobody can mint until the admin grants MINTER_ROLE.
    constructor(
        string memory name,
        string memory symbol,
        uint256 mintAmount_,
        uint256 maxMintCount_,
        address admin,
        address minter
    ) ERC20(name, symbol) ERC20Permit(name) {
        require(mintAmount_ != 0, MintToken__ZeroMintAmount());
        require(maxMintCount_ != 0, MintToken__ZeroMaxMintCount());
        require(admin != address(0), MintToken__ZeroAdmin());
        // Reverts when the whole supply does not fit a word, so that nothing below can overflow.
        mintAmount_ * maxMintCount_;
        mintAmount = mintAmount_;
        maxMintCount = maxMintCount_;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        if (minter != address(0)) _grantRole(MINTER_ROLE, minter);
    }

    /// @notice Mint one unit; a used id reverts.
    function mint(address to, bytes32 mintId) external virtual onlyRole(MINTER_ROLE) {
        require(_mintUnit(to, mintId), MintToken__MintIdUsed(mintId));
        _count(1);
    }

    /// @notice Mint one unit for each pair. A used id is skipped, also one used earlier in the same batch; all other
    /// faults (lengths, cap, zero recipient) revert the whole batch.
    function batchMint(address[] calldata to, bytes32[] calldata mintId) external virtual onlyRole(MINTER_ROLE) {
        require(to.length == mintId.length, MintToken__LengthMismatch(to.length, mintId.length));
        uint256 units = to.length;
        uint256 minted = 0;
        for (uint256 i = 0; i < units;) {
            unchecked {
                if (_mintUnit(to[i], mintId[i])) ++minted;
                ++i;
            }
        }
        if (minted != 0) _count(minted);
    }

    /// @notice Whether the unit of this id exists.
    function hasMinted(bytes32 mintId) external view returns (bool) {
        return _units[mintId].used != 0;
    }

    /// @notice The amount that can still be minted: units left, times mintAmount.
    function remainingSupply() external view returns (uint256) {
        return (maxMintCount - mintCount) * mintAmount;
    }

    // False when the id is used: then nothing happened.
    function _mintUnit(address to, bytes32 mintId) internal returns (bool) {
        Unit storage unit = _units[mintId];
        if (unit.used != 0) return false;
        unit.used = 1;
        _mint(to, mintAmount);
        emit TokensMinted(to, mintAmount, mintId);
        return true;
    }

    // Once a batch, after its units: a cap that is passed takes them all back.
    function _count(uint256 minted) internal {
        uint256 left = maxMintCount - mintCount;
        require(minted <= left, MintToken__CapReached(minted, left));
        mintCount += minted;
    }
}
